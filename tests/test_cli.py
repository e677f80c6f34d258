"""The command line as a user meets it: help, bad input, real cells on a tiny dataset."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.cli import main

ROOT = Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location(
    "bench_conftest", Path(__file__).parent / "benchmark" / "conftest.py"
)
_conftest = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_conftest)
place, write_experiment = _conftest.place, _conftest.write_experiment


def call(*arguments: object) -> int:
    """Run the command line in this process; return its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def run_it(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, **options)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_help_names_every_verb_with_an_example_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom recbole_kd.benchmark.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code in (0, None)\n"
        "heavy = {'torch', 'recbole', 'pandas', 'pyarrow', 'distributed', 'matplotlib', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "run_benchmark.py run quickstart" in done.stdout
    for verb in ("run", "plan", "list", "doctor", "status", "prune"):
        assert f" {verb} " in done.stdout


# What a user can get wrong in a dataset: (what to do to the files, what the one line must say).
BAD_DATA = {
    "missing file": (lambda d: (d / "tiny.inter").unlink(), "tiny.inter"),
    "malformed header": (lambda d: edit(d, 0, "user_id\titem_id\trating\ttimestamp"), "tiny.inter"),
    "missing column": (
        lambda d: edit(d, 0, "user_id:token\titem_id:token\tstars:float\ttimestamp:float"),
        "rating",
    ),
    "blank rating": (lambda d: edit(d, 3, "u1\ti3\t\t1002"), "line 4"),
    "rating in words": (lambda d: edit(d, 3, "u1\ti3\tgood\t1002"), "line 4"),
    "nobody to test": (lambda d: keep_first(d, 1), "nobody to"),
}


def edit(folder: Path, line: int, text: str) -> None:
    path = folder / "tiny.inter"
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")


def keep_first(folder: Path, count: int) -> None:
    """Leave every user ``count`` interactions."""
    path = folder / "tiny.inter"
    head, *rest = path.read_text().splitlines()
    seen: dict[str, int] = {}
    kept = []
    for line in rest:
        user = line.split("\t")[0]
        seen[user] = seen.get(user, 0) + 1
        if seen[user] <= count:
            kept.append(line)
    path.write_text("\n".join([head, *kept]) + "\n")


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_gives_one_line_and_leaves_nothing(name, place, capsys):
    damage, said = BAD_DATA[name]
    damage(place / "data" / "tiny")
    before = tree(place)
    assert call("run", "small", "--results", place / "results", "--workers", 0) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert error.startswith("error: ")
    assert said in error
    assert tree(place) == before
    assert not (place / "results").exists()


def embeddings(place: Path, **changes: object) -> Path:
    """A valid embedding file of the tiny dataset, with changes to columns."""
    from recbole_kd.data.history import history_hash
    from recbole_kd.data.load import load_dataset
    from recbole_kd.data.profile_table import ProfileRows, write_embedding_file
    from recbole_kd.data.spec import DatasetSpec
    from recbole_kd.data.split import make_split

    spec = DatasetSpec.model_validate(yaml.safe_load((place / "properties/dataset/tiny.yaml").read_text()))
    dataset = load_dataset(spec)
    split = make_split(dataset, spec.split)
    users = [str(dataset.user_tokens[u]) for u in split.train.users]
    histories = [[str(dataset.item_tokens[i]) for i in split.train.row(r)] for r in range(len(users))]
    n = int(changes.pop("users", len(users)))
    rows = ProfileRows.build(
        user=users[:n],
        profile=[0] * n,
        source_user=users[:n],
        history_last=[len(h) for h in histories[:n]],
        history_hash=[history_hash(h) for h in histories[:n]],
        vector=np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32),
    )
    path = place / "own.parquet"
    manifest = {
        "teacher": "own",
        "dataset": "tiny",
        "dataset_digest": dataset.digest,
        "split_digest": split.digest,
    }
    write_embedding_file(path, rows, manifest)
    if changes:
        table = pq.read_table(path)
        for column, change in changes.items():
            values = change(table[column].to_pylist())
            field = table.schema.field(column)
            kind = field.type if column != "vector" else None
            import pyarrow as pa

            table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, kind))
        pq.write_table(table, path)
    return path


KD = {**_conftest.SMALL, "distill": {"distil_epochs": 1}}
BAD_EMBEDDINGS = {
    "unknown user": ({"user": lambda v: ["nobody", *v[1:]]}, "nobody"),
    "NaN": ({"vector": lambda v: [[float("nan")] * 6, *v[1:]]}, "own.parquet"),
    "wrong dimension": ({"vector": lambda v: [[1.0] * 5, *v[1:]]}, "dimension"),
    "leakage": ({"history_last": lambda v: [v[0] + 1, *v[1:]]}, "own.parquet"),
}


@pytest.mark.parametrize("name", BAD_EMBEDDINGS)
def test_bad_embeddings_give_one_line_and_leave_nothing(name, place, write_experiment, capsys):
    changes, said = BAD_EMBEDDINGS[name]
    path = embeddings(place, **changes)
    write_experiment("kd", {"variants": {"plain": _conftest.SMALL, "kd": {**KD, "embeddings": str(path)}}})
    before = tree(place)
    assert call("run", "kd", "--results", place / "results", "--workers", 0) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert said in error
    assert tree(place) == before
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("distill", "said"),
    [({"objective": "msee"}, "mse"), ({"layer": 9}, "layer"), ({"pooling": "maen"}, "mean")],
)
def test_a_bad_value_is_found_before_any_cell_runs(distill, said, place, write_experiment, capsys):
    kd = {**_conftest.SMALL, "distill": {"distil_epochs": 1, **distill}, "embeddings": str(embeddings(place))}
    write_experiment("kd", {"variants": {"plain": _conftest.SMALL, "kd": kd}})
    assert call("run", "kd", "--results", place / "results", "--workers", 0) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert said in error
    assert not (place / "results").exists()


def test_real_cells_with_partial_coverage_and_a_second_call_without_torch(place, write_experiment, capsys):
    path = embeddings(place, users=20)
    write_experiment(
        "kd", {"variants": {"plain": _conftest.SMALL, "kd": {**KD, "embeddings": str(path)}}, "seeds": [1]}
    )
    results = place / "results"
    assert call("run", "kd", "--results", results, "--workers", 0) == 0
    out = capsys.readouterr().out
    assert "tiny kd: profiles for 67% of the train users" in out
    manifests = [json.loads(p.read_text()) for p in results.glob("runs/*/manifest.json")]
    assert sorted(m["profile_coverage"] or 0 for m in manifests) == [0, pytest.approx(20 / 30)]
    before = tree(results / "kd")
    code = (
        f"import sys\nfrom recbole_kd.benchmark.cli import main\n"
        f"try:\n    main(['run', 'kd', '--results', {str(results)!r}])\nexcept SystemExit as end:\n"
        f"    assert not end.code\nassert 'torch' not in sys.modules and 'distributed' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 exist, 0 to run" in done.stdout
    assert {k: v for k, v in tree(results / "kd").items() if not k.endswith((".pdf", ".png"))} == {
        k: v for k, v in before.items() if not k.endswith((".pdf", ".png"))
    }


def test_slips_on_the_command_line_are_one_line(place, capsys):
    assert call("run", "smal") == 2
    assert "did you mean 'small'" in capsys.readouterr().err
    assert call("plan", "small", "--only", "sed=1") == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    assert call("plan", "small", "--only", "seed=77") == 2
    assert "leaves no cell" in capsys.readouterr().err
    assert call("run", "small", "--device", "gpu") == 2
    assert call("status", "--results", place / "none") == 2


def test_plan_changes_nothing(place, capsys):
    before = tree(place)
    assert call("plan", "small", "--results", place / "results", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["to_run"] == 4
    assert [c["status"] for c in found["cells"]] == ["missing"] * 4
    assert tree(place) == before


def test_list_shows_what_experiments_can_name(place, capsys):
    assert call("list", "datasets", "--json") == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert {"tiny", "ml-100k"} <= names
    assert call("list", "models") == 0
    assert "BERT4RecKD" in capsys.readouterr().out
    assert call("list", "baselines", "--json") == 0
    about = {entry["name"]: entry["about"] for entry in json.loads(capsys.readouterr().out)}
    rankers = {name.removeprefix("ranker: ") for name in about if name.startswith("ranker: ")}
    assert rankers == {"retriever", "llmrank", "likelihood", "tallrec", "llamarec"}
    assert "Needs when serving: its retriever and a chat model" in about["ranker: llmrank"]
    assert "Needs when serving: language model" in about["P5"]
    assert "Needs when serving" not in about["Pop"]
    # What a bare name means in an experiment decides how RecBole's model is called here.
    theirs = {name for name, text in about.items() if text.startswith("RecBole's own")}
    assert {"recbole:SASRec", "recbole:GRU4Rec", "recbole:BERT4Rec", "LightSANs"} <= theirs
    for name in theirs:
        assert rooms.model_defaults(name, False)["model"] == "recbole:" + name.removeprefix("recbole:")


@pytest.mark.slow
def test_kill_9_of_real_dask_cells_and_the_same_table(place, write_experiment):
    kd = {**KD, "embeddings": str(embeddings(place))}
    write_experiment("kd", {"variants": {"plain": _conftest.SMALL, "kd": kd}, "seeds": [1, 2, 3]})
    whole = run_it("run", "kd", "--results", place / "whole", "--workers", "0")
    assert whole.returncode == 0, whole.stderr
    results = place / "results"
    command = [
        sys.executable,
        str(ROOT / "run_benchmark.py"),
        "run",
        "kd",
        "--results",
        str(results),
        "-j",
        "2",
    ]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(results.glob("runs/*/manifest.json"))) < 2:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {p: p.stat().st_mtime_ns for p in results.glob("runs/*/manifest.json")}
    done = run_it("run", "kd", "--results", results, "-j", "2")
    assert done.returncode == 0, done.stderr
    assert f"{6 - len(kept)} to run" in done.stdout
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())
    for name in ("table.md", "table.csv", "table.tex", "comparisons.csv", "experiment.json"):
        assert (results / "kd" / name).read_bytes() == (place / "whole" / "kd" / name).read_bytes()
    ranks = {p.parent.name: p.read_bytes() for p in results.glob("runs/*/ranks.parquet")}
    assert ranks == {p.parent.name: p.read_bytes() for p in (place / "whole").glob("runs/*/ranks.parquet")}
    assert not [p for p in (results / "runs").iterdir() if p.name.startswith(".")]
    assert os.path.getsize(results / "kd" / "gains.png") > 0


def baseline_cells(place, write_experiment, names):
    """Run RecBole models for one epoch; return manifest and ranks by backbone."""
    variants = {"plain": {"train": {"epochs": 1, "train_batch_size": 64}}}
    write_experiment("base", {"variants": variants, "backbones": names, "seeds": [1]})
    status = call("run", "base", "--results", place / "results", "--workers", 0)
    record = json.loads((place / "results" / "base" / "experiment.json").read_text())
    assert status == 0, [f["traceback"] for f in record["failures"]]
    runs = {c["backbone"]: place / "results" / "runs" / c["cell"] for c in record["cells"]}
    return {name: (json.loads((run / "manifest.json").read_text()), run) for name, run in runs.items()}


def test_a_recbole_model_is_a_baseline_ranked_as_ours(place, write_experiment):
    found = baseline_cells(place, write_experiment, ["Caser", "recbole:FPMC", "recbole:SASRec"])
    for manifest, run in found.values():
        ranks = pq.read_table(run / "ranks.parquet").to_pandas()
        assert len(ranks) == 60
        assert ranks["rank"].between(1, 25).all()
        assert (ranks["rank_masked"] <= ranks["rank"]).all()
        assert manifest["epochs"] == 1
    assert found["recbole:SASRec"][0]["model"] == "recbole:SASRec"


def test_a_recbole_model_passes_by_the_variants_with_a_teacher(place, write_experiment, capsys):
    kd = {**KD, "embeddings": str(embeddings(place))}
    write_experiment(
        "mix", {"variants": {"plain": {}, "kd": kd}, "backbones": ["SASRec", "Caser"], "seeds": [1]}
    )
    assert call("plan", "mix", "--json") == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [(c["backbone"], c["variant"]) for c in cells] == [
        ("SASRec", "plain"),
        ("SASRec", "kd"),
        ("Caser", "plain"),
    ]
    write_experiment("more", {"variants": {"plain": {}}, "backbones": ["S3Rec"], "seeds": [1]})
    assert call("plan", "more") == 2
    assert "no model 'S3Rec'" in capsys.readouterr().err
    write_experiment("more", {"variants": {"plain": {"hparams": {"n_v": 3}}}, "backbones": ["Caser"]})
    assert call("plan", "more") == 2
    assert "did you mean 'nv'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_listed_baseline_runs(place, write_experiment):
    from recbole_kd.benchmark.prefix import available

    _conftest.write_dataset(place / "data" / "tiny", users=60, items=150)
    names = [f"recbole:{name}" for name in available()]
    assert set(baseline_cells(place, write_experiment, names)) == set(names)


def trained(place, capsys, *arguments):
    assert call("train", "--dataset", "tiny", "--results", place / "results", "--json", *arguments) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_train_takes_recbole_s_flat_keys_in_recbole_s_order_of_precedence(place, capsys):
    (place / "a.yaml").write_text(
        "n_layers: 1\nhidden_size: 8\ninner_size: 8\nepochs: 3\nlearning_rate: 1e-2\n"
    )
    (place / "b.yaml").write_text(
        "epochs: 2\ntopk: [5, 10]\nmetrics: [Recall, NDCG]\nMAX_ITEM_LIST_LENGTH: 6\n"
    )
    files = f"{place / 'a.yaml'} {place / 'b.yaml'}"
    found = trained(place, capsys, "--model", "SASRec", "--config_files", files, "--epochs=1", "--seed=5")
    assert set(found["test_result"]) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    spec = yaml.safe_load((Path(found["run"]) / "spec.yaml").read_text())
    assert spec["student"]["train"]["epochs"] == 1
    assert spec["student"]["train"]["learning_rate"] == 0.01
    assert spec["student"]["hparams"]["n_layers"] == 1
    assert spec["dataset"]["max_item_list_length"] == 6
    assert spec["seed"] == 5
    manifest = json.loads((Path(found["run"]) / "manifest.json").read_text())
    assert found["test_result"]["ndcg@10"] == round(manifest["metrics"]["test"]["NDCG@10"], 4)


def test_train_distils_from_a_file(place, capsys):
    small = ("--n_layers=1", "--hidden_size=8", "--inner_size=8", "--epochs=2", "--distil_epochs=1")
    own = ("--alpha=3e-1", "--objective=infonce", "--objective_args={'temperature': 0.2}")
    found = trained(place, capsys, "-m", "SASRecKD", f"--embeddings={embeddings(place)}", *own, *small)
    spec = yaml.safe_load((Path(found["run"]) / "spec.yaml").read_text())
    assert spec["student"]["model"] == "SASRecKD"
    assert spec["student"]["distill"]["alpha"] == 0.3
    assert spec["student"]["distill"]["objective_args"] == {"temperature": 0.2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "SASRec", "--learnin_rate=1"], "did you mean 'learning_rate'"),
        (["-m", "SASRex"], "did you mean 'SASRec'"),
        (["-m", "SASRecKD"], "--teacher=template"),
        (["-m", "SASRec", "--alpha=0.1"], "SASRec has no 'alpha'"),
        (["-m", "SASRec", "learning_rate"], "is not --key=value"),
        (["-m", "SASRec", "--config_files", "none.yaml"], "none.yaml"),
        ([], "name a model"),
        (["-m", "SASRec", "--learner=sgd"], "'learner' = 'sgd' is not supported"),
        (["-m", "SASRec", "--epochs=1", "--epochs=2"], "is given twice"),
        (["-m", "SASRec", "--val_interval={rating: '(1,3]'}"], "is not supported"),
        (["-m", "SASRec", "--eval_args={split: {RS: [8, 1, 1]}}"], "only leave-one-out"),
        (["-m", "SASRec", "--topk={5"], "--topk:1: not valid YAML"),
        (["-m", "SASRecKD", "--teacher=template", "--experts={n_expert: 3}"], "did you mean 'n_experts'"),
    ],
)
def test_a_slip_in_train_is_one_line(arguments, said, place, capsys):
    assert call("train", "-d", "tiny", "--results", place / "results", *arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert said in error
    assert not (place / "results").exists()


def test_train_needs_no_yaml_for_a_folder_of_atomic_files(place, capsys):
    """RecBole's way: --data_path and a dataset of that name; model and dataset may stand in a file."""
    _conftest.write_dataset(place / "mine" / "shop", name="shop")
    config = {"model": "SASRec", "dataset": "shop", "data_path": str(place / "mine"), "learner": "adam"}
    config |= {
        "n_layers": 1,
        "hidden_size": 8,
        "inner_size": 8,
        "epochs": 1,
        "clip_grad_norm": {"max_norm": 5},
    }
    (place / "a.yaml").write_text(yaml.safe_dump(config))
    command = ["train", "--config_files", place / "a.yaml", "--results", place / "r", "--json"]
    assert call(*command, "--val_interval={rating: '[2,inf)'}") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["test_result"]) == {"recall@10", "mrr@10", "ndcg@10", "hit@10", "precision@10"}
    assert found["test_result"]["precision@10"] == pytest.approx(
        found["test_result"]["hit@10"] / 10, abs=1e-4
    )
    spec = yaml.safe_load((Path(found["run"]) / "spec.yaml").read_text())
    assert spec["dataset"]["filter"] == {
        "min_rating": 2.0,
        "min_user_inter": 0,
        "min_item_inter": 0,
        "iterate": True,
    }
    assert spec["student"]["train"]["clip_grad_norm"] == 5


def test_diagnose_takes_the_folder_that_run_wrote_or_its_name(place, capsys):
    """The YAML lies where nobody looks for it, and asks for other diagnostics than the defaults."""
    base = yaml.safe_load((place / "properties" / "experiment" / "small.yaml").read_text())
    short = {**_conftest.SMALL, "distill": {"distil_epochs": 1}}
    variants = {"plain": _conftest.SMALL, "kd": {**short, "embeddings": str(embeddings(place))}}
    path, results = place / "elsewhere.yaml", place / "results"
    own = {"experiment": "named", "variants": variants, "baseline": "plain", "seeds": [1]}
    changed = {"users": 20, "k": 3, "folds": 2, "clusters": 2}
    path.write_text(yaml.safe_dump({**base, **own, "diagnostics": changed}))
    assert call("run", path, "--results", results, "--workers", 0, "-q") == 0
    capsys.readouterr()

    def diagnosed(what: object) -> list[dict]:
        assert call("diagnose", what, "--results", results, "--json") == 0
        return json.loads(capsys.readouterr().out)

    rows = diagnosed(path)
    assert {(row["variant"], row["moment"]) for row in rows} >= {("plain", "final"), ("kd", "final")}
    assert "overlap@3" in rows[0]
    assert diagnosed(results / "named") == rows
    assert diagnosed("named") == rows
    assert call("diagnose", "nameless", "--results", results) == 2
    assert "nameless" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["GRU4Rec", "Caser"])
def test_train_of_a_recbole_model_gives_the_numbers_of_recbole_s_own_run(model, place, capsys, tmp_path):
    """The steps of ``recbole.quick_start.run_recbole`` by hand (it imports ray), on the same file."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    from recbole_kd.compat import PrefixTrainer, recbole_config

    _conftest.write_dataset(place / "mine" / "shop", name="shop", users=60, items=40)
    flat = {"epochs": 3, "train_batch_size": 64, "learning_rate": 0.01, "seed": 7, "stopping_step": 10}
    flat |= {"MAX_ITEM_LIST_LENGTH": 8, "valid_metric": "NDCG@10", "topk": [5, 10]}
    (place / "a.yaml").write_text(yaml.safe_dump({**flat, "data_path": str(place / "mine")}))
    command = ["train", "-m", f"recbole:{model}", "-d", "shop", "--config_files", place / "a.yaml", "--json"]
    assert call(*command, "--results", place / "r") == 0
    ours = json.loads(capsys.readouterr().out.splitlines()[-1])
    recbole = {
        **flat,
        "data_path": str(place / "mine"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
        "train_neg_sample_args": None,
        "eval_batch_size": 4096,
        "reproducibility": True,
        "checkpoint_dir": str(tmp_path),
    }
    config = recbole_config(model, "shop", recbole)
    init_seed(7, True)
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(7, True)
    trainer = PrefixTrainer(config, get_model(model)(config, train_data.dataset))
    score, valid = trainer.fit(train_data, valid_data, verbose=False, saved=True, show_progress=False)
    test = trainer.evaluate(test_data, load_best_model=True, show_progress=False)
    assert ours["best_valid_score"] == pytest.approx(score, abs=1e-4)
    assert ours["best_valid_result"] == pytest.approx(dict(valid), abs=1e-4)
    assert ours["test_result"] == pytest.approx(dict(test), abs=1e-4)
