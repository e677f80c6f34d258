"""Does LoRA tuning teach a small language model anything? TALLRec on users with a hidden trait, before and
after.

    python benchmarks/llm_learns.py --folder /tmp/learns --shots 256 --epochs 4

Next item against a random item on the positive control (``properties/dataset/synthetic-trait.yaml`` with
another ``own_share``), SmolLM2-135M on this machine. Prints the loss of every epoch, the area under the curve
on test users before and after, and the difference with a paired bootstrap over users. It can be killed and
started again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
FRAME = "{instruction}\n{input}\nAnswer:\n"


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and the data set")
    parser.add_argument("--shots", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--users", type=int, default=150, help="test users that are asked about")
    parser.add_argument("--own-share", type=float, default=0.8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=2026)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    from recbole_kd.baselines.llm.tuned.examples import some_users
    from recbole_kd.baselines.llm.tuned.lm import AnswerModel, load_model, with_adapters
    from recbole_kd.baselines.llm.tuned.loop import Task, tune
    from recbole_kd.strict import digest

    split, titles = _data(given)
    spec, writer = _specs(given)
    tokenizer, model = load_model(writer, spec.lora, "cpu")
    lm = AnswerModel(tokenizer, with_adapters(model, spec.lora, given.seed))
    system = _system(lm, titles, split, spec, given.seed)
    lm.model.eval()
    rows = some_users(split.test, given.users, given.seed)
    questions = system.measured(split.test, rows)
    truth = np.array([q.yes for q in questions])
    print(
        f"{len(system)} examples, {len(rows)} test users, {len(questions[0].ids)} tokens a question",
        flush=True,
    )
    before = _kept(given.folder / "before.npy", lambda: system.chance_of_yes(questions))
    metric, validate = system.validator()
    began = time.perf_counter()
    tuned = tune(
        Task(lm.model, len(system), system.loss, validate, metric),
        spec.tune,
        seed=given.seed,
        file=given.folder / "adapters.safetensors",
        fingerprint=digest([spec.canonical(), split.digest, given.seed]),
        on_epoch=lambda row: print(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True
        ),
    )
    print(f"this session: {time.perf_counter() - began:.0f} s; best epoch {tuned.best_epoch}", flush=True)
    after = system.chance_of_yes(questions)
    _compare(truth, before, after, given.seed)


def _data(given: argparse.Namespace) -> tuple[Any, list[str]]:
    import os

    from recbole_kd.data.load import load_dataset, load_item_texts
    from recbole_kd.data.spec import DATA_ROOT_VARIABLE, DatasetSpec
    from recbole_kd.data.split import make_split

    os.environ[DATA_ROOT_VARIABLE] = str(given.folder / "data")
    raw = yaml.safe_load((ROOT / "properties/dataset/synthetic-trait.yaml").read_text(encoding="utf-8"))
    raw["synthetic"]["own_share"] = given.own_share
    spec = DatasetSpec.model_validate(raw)
    split = make_split(load_dataset(spec), spec.split)
    texts = load_item_texts(spec)
    return split, ["", *(texts[str(token)]["title"] for token in split.dataset.item_tokens[1:])]


def _specs(given: argparse.Namespace) -> tuple[Any, Any]:
    from profiles.spec import load_teacher_spec
    from recbole_kd.baselines.llm.tuned.tallrec import TallRecSpec

    file = yaml.safe_load((ROOT / "properties/ranker/tallrec.yaml").read_text(encoding="utf-8"))
    params = file["params"] | {"shots": given.shots, "valid_users": 40}
    params["prompt"] = params["prompt"] | {"frame": FRAME}
    params["tune"] = params["tune"] | {
        "epochs": given.epochs,
        "patience": given.epochs + 1,
        "learning_rate": given.learning_rate,
        "save_every": 2,
    }
    writer = load_teacher_spec("smollm2", {"writer": {"dtype": "float32", "device": "cpu"}}).writer
    return TallRecSpec.model_validate(params), writer


def _system(lm: Any, titles: list[str], split: Any, spec: Any, seed: int) -> Any:
    from recbole_kd.baselines.llm.tuned.tallrec import TallRec

    return TallRec(lm, titles, {"person": "user", "item": "item"}, split, spec, seed)


def _kept(file: Path, make: Any) -> NDArray[np.float64]:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, make())
    found: NDArray[np.float64] = np.load(file)
    return found


def _compare(
    truth: NDArray[np.bool_], before: NDArray[np.float64], after: NDArray[np.float64], seed: int
) -> None:
    """Paired bootstrap over users; questions stand in pairs: chosen item, random item."""
    from recbole_kd.baselines.llm.tuned.tallrec import auc

    pairs = np.arange(len(truth)).reshape(-1, 2)
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(2000):
        at = pairs[rng.integers(len(pairs), size=len(pairs))].ravel()
        labels = truth[at].tolist()
        differences.append(auc(labels, after[at].tolist()) - auc(labels, before[at].tolist()))
    low, high = np.percentile(differences, [2.5, 97.5])
    first, last = auc(truth.tolist(), before.tolist()), auc(truth.tolist(), after.tolist())
    worse = (np.sum(np.asarray(differences) <= 0) + 1) / (len(differences) + 1)
    print(
        f"AUC before {first:.3f}, after {last:.3f}: difference {last - first:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}, one-sided p {worse:.4f}, {len(pairs)} users)"
    )


if __name__ == "__main__":
    main()
