"""One command that times ours against RecBole, RecTools and RePlay on this machine, and writes the page.

    python -m benchmarks.speed --quick                  # ml-100k, one level; about half an hour
    python -m benchmarks.speed --rivals-python .venv-rivals/bin/python --page docs/results/speed.md
    python -m benchmarks.speed --datasets ml-1m data/generated/generated.yaml --systems recbole_kd

Every system runs from its package, on the same split and with the same sizes of the network and cross-entropy
over all items, alone, single-threaded, in a process of its own. ``--rivals-python`` (or the variable
SPEED_RIVALS_PYTHON) names the interpreter that has RecTools and RePlay: see the head of
``benchmarks/replay_reference.py``; without it they are left out, and ours needs neither. ``--recbole-python``
does the same for RecBole. Each entry (system, model, data set) is kept in ``--out`` and not run again;
delete its folder to repeat it. Ours runs to its early stopping; the others until they have reached the
highest level or spent ``--budget`` CPU-seconds of training. Peaks, floors and overheads are measured in the
same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.bench_students import SYSTEMS, run_one, timing
from benchmarks.common import BACKBONES, load_split, read_curve
from recbole_kd.benchmark.machine import machine

LEVELS: dict[str, tuple[float, ...]] = {
    "ml-100k": (0.03, 0.04, 0.05, 0.06),
    "ml-1m": (0.08, 0.10, 0.12, 0.14),
    "amazon-beauty": (0.01, 0.02, 0.03, 0.04, 0.05),
}
"""Validation NDCG@10 to be reached; of other data sets ``OTHER_LEVELS``."""
OTHER_LEVELS = (0.02, 0.05, 0.1)
OFFERED = {
    "recbole_kd": BACKBONES,
    "RecBole": BACKBONES,
    "RecTools": ("SASRec", "BERT4Rec"),
    "RePlay": ("SASRec", "BERT4Rec"),
}
"""What the packages bring: neither RecTools 0.19 nor RePlay 0.22 has a GRU4Rec."""
LAST_ONLY = ("RecTools", "RePlay")
"""An epoch of theirs reads the last ``max_item_list_length`` interactions of a user and none before them."""
PACKAGE = {"RecBole": "recbole", "RecTools": "rectools", "RePlay": "replay-rec"}
RIVALS = "SPEED_RIVALS_PYTHON"
QUICK = {"level": 0.03, "budget": 150.0}


def levels_of(dataset: str, quick: bool) -> tuple[float, ...]:
    """Levels of a data set."""
    return (QUICK["level"],) if quick else LEVELS.get(dataset, OTHER_LEVELS)


def interactions_read(dataset: str) -> dict[str, int]:
    """Train interactions that an epoch of every system reads: all of them, or those of :data:`LAST_ONLY`."""
    split, max_len = load_split(dataset)
    lengths = split.train.lengths
    last = int(lengths.clip(max=max_len).sum())
    return {system: last if system in LAST_ONLY else int(lengths.sum()) for system in SYSTEMS}


def package_versions(python: str, names: list[str]) -> dict[str, str | None]:
    """Versions of packages as an interpreter has them."""
    code = (
        "import json, sys; from importlib.metadata import version, PackageNotFoundError\n"
        "def v(n):\n try: return version(n)\n except PackageNotFoundError: return None\n"
        "print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def network_options(system: str, model: str, hparams: dict[str, Any]) -> list[str]:
    """Options that give a rival the network of ours."""
    if system == "RecBole":
        return [f"--hparam={key}={json.dumps(value)}" for key, value in hparams.items()]
    if system == "recbole_kd":
        return []
    width = "--n-factors" if system == "RecTools" else "--hidden-size"
    found = ["--n-blocks", hparams["n_layers"], "--n-heads", hparams["n_heads"]]
    found += [width, hparams["hidden_size"]]
    found += ["--dropout", hparams["hidden_dropout_prob"]]
    if model == "BERT4Rec":
        found += ["--mask-prob", hparams["mask_ratio"]]
    return [str(part) for part in found]


def options_of(args: argparse.Namespace, system: str, model: str, dataset: str) -> list[str]:
    """Command line of one entry."""
    from benchmarks.student_run import student_spec

    levels = levels_of(dataset, args.quick)
    options = ["--dataset", dataset, "--seed", str(args.seed), "--device", args.device]
    if system != "recbole_kd" or args.quick:
        options += ["--stop-at", str(max(levels))]
    if system != "recbole_kd" or args.max_ours:
        options += ["--max-cpu", str(args.budget if system != "recbole_kd" else args.max_ours)]
    if system == "RecBole":
        options += ["--batch-size", str(args.recbole_batch), "--every", str(args.every)]
        options += [] if args.anomaly_detection else ["--no-anomaly-detection"]
    if system in ("RecTools", "RePlay") and args.device.startswith("cuda"):
        options[options.index("--device") + 1] = "gpu"
    return options + network_options(system, model, student_spec(model, []).hparams)


def run_entry(args: argparse.Namespace, system: str, model: str, dataset: str) -> dict[str, Any]:
    """Run an entry, or read it where it is done; what fails is an entry with ``error``."""
    apart = "-no-anomaly-detection" if system == "RecBole" and not args.anomaly_detection else ""
    name = f"{system}-{model}-{Path(dataset).stem}{apart}{'-quick' if args.quick else ''}"
    folder = args.out / name
    kept = folder / "entry.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    entry: dict[str, Any] = {"system": system, "model": model, "dataset": Path(dataset).stem}
    try:
        summary = run_one(
            system,
            model,
            folder,
            options_of(args, system, model, dataset),
            python=args.python[system],
            timeout=args.timeout,
        )
    except subprocess.SubprocessError as error:
        # Not kept: the next call tries again.
        return entry | {"error": f"{type(error).__name__}: {str(error)[-200:]}"}
    points = read_curve(folder)
    wall_per_cpu = points[-1].wall / max(points[-1].cpu, 1e-9)
    if args.device != "cpu":
        # What a GPU does is no CPU time.
        points = [replace(p, cpu=p.wall) for p in points]
        summary["cpu_seconds"] = summary["wall_seconds"]
    result = asdict(timing(summary, points, levels_of(dataset, args.quick)))
    entry |= result | {
        "eval_seconds": summary.get("eval_seconds"),
        "hparams": summary["hparams"],
        "wall_per_cpu": wall_per_cpu,
    }
    beside = kept.with_suffix(".tmp")
    beside.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, kept)
    return entry


def measured(args: argparse.Namespace, module: str, name: str, options: list[str]) -> dict[str, Any]:
    """Output of ``floor`` or ``overheads``, run once."""
    kept: Path = args.out / f"{name}.json"
    if not kept.is_file():
        root = Path(__file__).resolve().parents[1]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} if module == "floor" else dict(os.environ)
        environment["PYTHONPATH"] = str(root)
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *options]
        print(f"-- {name}", flush=True)
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )
        kept.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Run everything that is missing; return the record that the page shows."""
    from recbole_kd.models.cross_entropy import resolve_precision

    entries = []
    for dataset in args.datasets:
        for model in args.models:
            for system in args.systems:
                if model in OFFERED[system] and system in args.python:
                    entries.append(run_entry(args, system, model, dataset))
    floors = {
        Path(d).stem: measured(
            args, "floor", f"floor-{Path(d).stem}", ["--dataset", d, "--device", args.device]
        )
        for d in args.datasets
    }
    overheads = []
    if args.overheads:
        for model in args.models:
            options = ["--dataset", args.datasets[0], "--model", model, "--device", args.device]
            options += ["--epochs", "2"] if args.quick else []
            overheads.append(measured(args, "overheads", f"overheads-{model}", options))
    versions = package_versions(sys.executable, ["torch", "numpy"])
    for system, package in PACKAGE.items():
        if system in args.python:
            versions |= package_versions(args.python[system], [package])
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "device": args.device,
        "versions": versions,
        "seed": args.seed,
        "budget": args.budget,
        "quick": args.quick,
        "softmax": str(resolve_precision("auto", args.device)).removeprefix("torch."),
        "recbole": {"batch_size": args.recbole_batch, "anomaly_detection": args.anomaly_detection},
        "left_out": [s for s in args.systems if s not in args.python],
        "entries": entries,
        "interactions": {Path(d).stem: interactions_read(d) for d in args.datasets},
        "floors": floors,
        "overheads": overheads,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", help="names under properties/dataset, or YAML files")
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=1500, help="CPU-seconds of training of each rival")
    parser.add_argument("--max-ours", type=float, help="CPU-seconds of training of ours; left out: no limit")
    parser.add_argument("--timeout", type=float, help="wall seconds after which an entry is given up")
    parser.add_argument("--recbole-batch", type=int, default=256, help="2048 is slower on a CPU")
    parser.add_argument(
        "--anomaly-detection",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="RecBole's import switches it on for its users; without it RecBole is faster",
    )
    parser.add_argument("--every", type=int, default=60, help="RecBole's steps between two measurements")
    parser.add_argument("--recbole-python", default=sys.executable)
    parser.add_argument("--rivals-python", default=os.environ.get(RIVALS), help=f"or {RIVALS}")
    parser.add_argument("--overheads", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help=f"level {QUICK['level']}, short budgets")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/speed"))
    parser.add_argument("--page", type=Path, help="Markdown page; the figure goes beside it, into img/")
    args = parser.parse_args()
    args.datasets = args.datasets or (["ml-100k"] if args.quick else ["ml-100k", "ml-1m", "amazon-beauty"])
    args.budget = min(args.budget, QUICK["budget"]) if args.quick else args.budget
    args.python = {"recbole_kd": sys.executable, "RecBole": args.recbole_python}
    if args.rivals_python:
        args.python |= {"RecTools": args.rivals_python, "RePlay": args.rivals_python}
    args.out.mkdir(parents=True, exist_ok=True)
    record = collect(args)
    (args.out / "speed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    from benchmarks.speed_page import draw, page

    path = args.page or args.out / "speed.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.parent / "img" / f"{path.stem}.svg"
    picture.parent.mkdir(exist_ok=True)
    draw(record, picture)
    text = page(record, f"img/{picture.name}")
    path.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {path}")


if __name__ == "__main__":
    main()
