"""What a report shows beside the ranks: examples of users, grounding, and the simulated cold start."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.load import load_results
from analysis.space import read_spaces
from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.extras.examples import write_examples
from recbole_kd.benchmark.extras.grounding import write_grounding
from recbole_kd.benchmark.extras.last_k import shorten, write_last_k
from recbole_kd.benchmark.extras.space import pooled_states, write_space
from recbole_kd.data.profile_table import load_profiles
from recbole_kd.data.types import EvalSet
from recbole_kd.errors import UserError
from recbole_kd.serving.student import Scorer, load_student
from tests.students import sequences

_SPEC = importlib.util.spec_from_file_location(
    "serving_conftest", Path(__file__).parents[1] / "serving" / "conftest.py"
)
_serving = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_serving)
make_run, write_record = _serving.make_run, _serving.write_record
EVIL = "</li><script>document.title='owned'</script> & 100 % \\write18"


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def test_shorten_keeps_the_last_items():
    part = EvalSet(sequences([[1, 2, 3, 4], [5], [6, 7]]), np.array([9, 8, 7]))
    short = shorten(part, 2)
    assert [short.history.row(r).tolist() for r in range(3)] == [[3, 4], [5], [6, 7]]
    assert short.targets.tolist() == [9, 8, 7]
    whole = shorten(part, 10)
    assert whole.history.items.tolist() == part.history.items.tolist()


@pytest.fixture
def trial(place: Path, make_run) -> Path:
    titles = (place / "data" / "tiny" / "tiny.item").read_text().replace("Title 7\t", f"{EVIL}\t")
    (place / "data" / "tiny" / "tiny.item").write_text(titles)
    runs = [make_run(b, distilled=d) for b in ("SASRec", "BERT4Rec") for d in (False, True)]
    return write_record(place / "results", runs)


def test_cold_start_ranks_are_those_of_the_shortened_history(trial):
    """By hand: the student's scores of the last k items, one user at a time."""
    paths = write_last_k(trial, (1, 3))
    assert len(paths) == 4
    for path in paths:
        trained = load_student(trial.parent / "runs" / path.stem)
        split = read_split(split_file(trial.parent, trained.spec))
        frame = pd.read_parquet(path)
        assert sorted(frame["last_k"].unique()) == [1, 3]
        for k in (1, 3):
            own = frame[frame["last_k"] == k].set_index("user")
            assert len(own) == len(split.test)
            for row in (0, 7, 19):
                shown = split.test.history.row(row)[-k:]
                item_seq = torch.zeros(1, trained.max_len, dtype=torch.int64)
                item_seq[0, : len(shown)] = torch.from_numpy(shown)
                with torch.no_grad():
                    scores = Scorer(trained.model)(item_seq, torch.tensor([len(shown)]))[0].numpy()
                target = split.test.targets[row]
                rivals = np.delete(scores, [0, target])
                low = 1 + (rivals > scores[target] + 1e-5).sum()
                high = 1 + (rivals > scores[target] - 1e-5).sum()
                user = str(split.dataset.user_tokens[split.test.history.users[row]])
                assert low <= own.loc[user, "rank"] <= high
    stamp = paths[0].stat().st_mtime_ns
    write_last_k(trial, (1,))
    assert paths[0].stat().st_mtime_ns == stamp
    write_last_k(trial, (1, 2))
    assert sorted(pd.read_parquet(paths[0])["last_k"].unique()) == [1, 2]


def test_examples_are_the_users_with_the_largest_changes(trial):
    path = write_examples(trial)
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert [e["why"] for e in entries] == ["largest gain"] * 2 + ["largest loss"] * 2 + [
        "drawn at random"
    ] * 2
    assert len({e["user"] for e in entries}) == 6
    runs = {e["variant"]: e["cell"] for e in json.loads((trial / "experiment.json").read_text())["cells"][:2]}
    ranks = {}
    for variant, cell in runs.items():
        frame = pd.read_parquet(trial.parent / "runs" / cell / "ranks.parquet")
        ranks[variant] = frame[frame["split"] == "test"].set_index("user")["rank"].astype(float)
    gain = 1 / ranks["kd"] - 1 / ranks["plain"]
    assert gain[entries[0]["user"]] == pytest.approx(gain.max())
    assert gain[entries[2]["user"]] == pytest.approx(gain.min())
    for entry in entries:
        assert entry["rank_before"] == ranks["plain"][entry["user"]]
        assert entry["rank_after"] == ranks["kd"][entry["user"]]
        for side, rank in (("before", entry["rank_before"]), ("after", entry["rank_after"])):
            assert len(entry[side]) == 10
            if rank <= 10 and rank == int(rank):
                assert entry[side][int(rank) - 1] == entry["target"]
            else:
                assert rank < 11 or entry["target"] not in entry[side]
    assert any(EVIL in e["before"] + e["after"] + e["history"] for e in entries)
    chosen = json.loads(write_examples(trial, ["u3", "u1"]).read_text())
    assert [(e["user"], e["why"]) for e in chosen] == [("u3", "chosen"), ("u1", "chosen")]
    with pytest.raises(UserError, match="--users nobody"):
        write_examples(trial, ["nobody"])


def test_report_shows_them_escaped(trial, capsys):
    assert call("extras", trial, "--last-k", "1,2", "--users", "u1,u2") == 0
    assert "runs" in capsys.readouterr().out
    assert call("report", trial, "--users", "u1,u2") == 0
    page = (trial / "report.html").read_text(encoding="utf-8")
    assert "<script>document.title" not in page
    assert "&lt;script&gt;document.title" in page
    assert "Simulated cold start" in page
    assert "user u1 (chosen)" in page
    assert call("tables", trial, "--table", "last-k", "--format", "csv") == 0
    assert ",all," in capsys.readouterr().out
    assert call("report", trial, "--users", "nobody") == 2
    assert "nobody" in capsys.readouterr().err
    assert call("tables", trial, "--table", "grounding") == 2
    assert "extras" in capsys.readouterr().err
    assert call("extras", trial, "--last-k", "0") == 2


def test_profile_texts_and_grounding(place, write_experiment):
    """Real cells with template profiles and their placebo: texts, whom they describe, and their scores."""
    small = _serving._conftest.SMALL
    distill = {"distil_epochs": 1}
    encoder = {"kind": "tfidf", "model": None, "pooling": None, "max_tokens": None, "dimension": 8}
    kd = {**small, "distill": distill, "profile": {"encoder": encoder}}
    changes = {
        "variants": {
            "plain": small,
            "kd-shuffled": {"teacher": "shuffled", **kd, "profile": {**kd["profile"], "extends": "template"}},
            "kd-template": {"teacher": "template", **kd},
        },
        "seeds": [1],
        "controls": [],
    }
    items = [f"i{i}\tTitle {i}\tGenre{i % 12}" for i in range(1, 26)]
    head = "item_id:token\ttitle:token_seq\tgenre:token_seq"
    (place / "data" / "tiny" / "tiny.item").write_text("\n".join([head, *items]) + "\n")
    path = write_experiment("texts", changes)
    results = place / "results"
    assert call("run", path, "-j", 0, "--quiet", "--results", results) == 0
    folder = results / "texts"
    entries = json.loads(write_examples(folder).read_text(encoding="utf-8"))
    assert {e["variant"] for e in entries} == {"kd-template"}
    for entry in entries:
        assert entry["written_for"] == entry["user"]
        assert entry["profile"]
        assert 0 < entry["grounding"] <= 1
    frame = pd.read_parquet(write_grounding(folder))
    assert len(frame) == 30
    _check_space(folder)
    # The template states the user's own statistics; texts of other users are supported less.
    record = json.loads((folder / "experiment.json").read_text())
    record["cells"] = [c for c in record["cells"] if c["variant"] != "kd-template"]
    (folder / "experiment.json").write_text(json.dumps(record))
    entries = json.loads(write_examples(folder).read_text(encoding="utf-8"))
    assert all(e["written_for"] != e["user"] for e in entries)
    shuffled = pd.read_parquet(write_grounding(folder))
    assert shuffled["variant"].unique().tolist() == ["kd-shuffled"]
    assert shuffled["grounding"].mean() < frame["grounding"].mean()


def _check_space(folder: Path) -> None:
    """The file against the embedding file, the histories and the figure that is drawn from it."""
    path = write_space(folder)
    frame = pd.read_parquet(path)
    assert frame.groupby("space", sort=False).size().to_dict() == {
        "profiles": 30,
        "plain": 30,
        "kd-template": 30,
    }
    cells = json.loads((folder / "experiment.json").read_text())["cells"]
    run = next(folder.parent / "runs" / c["cell"] for c in cells if c["variant"] == "kd-template")
    named = json.loads((run / "manifest.json").read_text())["profile_file"]["name"]
    split = read_split(split_file(folder.parent, load_student(run).spec))
    table = load_profiles(rooms.profiles_folder(folder.parent) / named, split, trust_unverified=True)
    users = np.flatnonzero(table.mask[:, 0])
    raw = table.vectors[users, 0].astype(float)
    wanted = dict(zip(split.dataset.user_tokens[users], (raw - raw.mean(0)) / raw.std(0), strict=True))
    profiles = frame[frame["space"] == "profiles"].set_index("user")
    for user, vector in profiles["vector"].items():
        np.testing.assert_allclose(vector, wanted[user], atol=1e-4)
    # A user favours a genre of the own train items, and not everybody the same.
    rows = {int(u): r for r, u in enumerate(split.train.users)}
    for user, genre in profiles["attribute"].items():
        own = split.train.row(rows[int(np.flatnonzero(split.dataset.user_tokens == user)[0])])
        tokens = [split.dataset.item_tokens[i] for i in own]
        assert genre in {f"Genre{int(t[1:]) % 12}" for t in tokens}
    assert profiles["attribute"].nunique() > 3
    stamp = path.stat().st_mtime_ns
    assert write_space(folder).stat().st_mtime_ns == stamp
    (spaces,) = read_spaces(load_results(folder))
    assert list(spaces.vectors) == ["profiles", "plain", "kd-template"]
    assert [len(v) for v in spaces.vectors.values()] == [30] * 3


def test_pooled_states_are_the_mean_of_recboles_outputs(trial):
    """SASRec is causal: its output at position t is RecBole's forward of the first t + 1 items."""
    runs = [
        c for c in json.loads((trial / "experiment.json").read_text())["cells"] if c["backbone"] == "SASRec"
    ]
    trained = load_student(trial.parent / "runs" / runs[0]["cell"])
    split = read_split(split_file(trial.parent, trained.spec))
    users = split.train.users[:3]
    found = pooled_states(trained, split, users)
    for row in range(3):
        items = split.train.row(row)[-trained.max_len :]
        outputs = []
        for end in range(1, len(items) + 1):
            item_seq = torch.zeros(1, trained.max_len, dtype=torch.int64)
            item_seq[0, :end] = torch.from_numpy(items[:end])
            with torch.no_grad():
                outputs.append(trained.model.forward(item_seq, torch.tensor([end]))[0].numpy())
        np.testing.assert_allclose(found[row], np.mean(outputs, 0), atol=1e-5)


def test_no_pair_no_examples(place, make_run):
    folder = write_record(place / "results", [make_run("SASRec", distilled=False)])
    assert write_examples(folder) is None
    assert write_grounding(folder) is None
    assert write_space(folder) is None
