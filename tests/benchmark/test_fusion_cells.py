"""Fusion choices in an experiment: lists, files of confidences, and errors before any cell runs."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from recbole_kd.benchmark import reproduce
from recbole_kd.benchmark.artefacts import build
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import ProfileError, SpecError, StoreError
from tests.benchmark.conftest import SMALL

USERS = [f"u{n}" for n in range(1, 31)]


@pytest.fixture
def kd(place, write_experiment):
    """Write an experiment whose variant ``kd`` has vectors from a file and these choices."""
    vectors = np.random.default_rng(0).normal(size=(len(USERS), 4)).astype(np.float32)
    np.savez(place / "teacher.npz", users=np.array(USERS), vectors=vectors)

    def write(**distill):
        variant = {
            **SMALL,
            "embeddings": str(place / "teacher.npz"),
            "trust_unverified": True,
            "distill": distill,
        }
        return write_experiment("fusion", {"variants": {"plain": SMALL, "kd": variant}, "seeds": [1]})

    return write


def _kd_cell(path):
    return next(c for c in load_experiment(path).cells if c.label.variant == "kd")


def _confidence(path, value):
    path.write_text("user,grounding\n" + "".join(f"{u},{value}\n" for u in USERS))
    return str(path)


def test_a_list_of_layers_is_one_value(kd):
    assert _kd_cell(kd(layer=[1, -1])).spec.student.distill.layers == [1, -1]
    assert _kd_cell(kd(layer=1)).spec.student.distill.layers == [1]
    for bad in ([1, "x"], "1"):
        with pytest.raises(SpecError, match=r"fusion.yaml.*layer"):
            load_experiment(kd(layer=bad))
    with pytest.raises(SpecError, match="must be text"):
        load_experiment(kd(pooling=["mean"]))


def test_the_address_holds_what_the_confidences_are_not_where_they_lie(kd, place):
    plain = _kd_cell(kd())
    first = _kd_cell(kd(confidence=_confidence(place / "a.csv", 0.5)))
    moved = _kd_cell(kd(confidence=_confidence(place / "b.csv", 0.5)))
    other = _kd_cell(kd(confidence=_confidence(place / "b.csv", 0.6)))
    assert first.cell == moved.cell
    assert len({plain.cell, first.cell, other.cell}) == 3
    assert set(first.spec.teacher_source) == {"file", "confidence"}


def test_a_missing_or_wrong_file_of_confidences_stops_before_any_cell(kd, place):
    with pytest.raises(ProfileError, match=r"fusion.yaml.*no file '.*nowhere.csv'; write it with"):
        load_experiment(kd(confidence=str(place / "nowhere.csv")))
    path = place / "a.csv"
    path.write_text("user,grounding\nu1,1\nghost,1\n")
    with pytest.raises(ProfileError, match="row 1, field user: user 'ghost' is not in dataset tiny"):
        build(place / "results", load_experiment(kd(confidence=str(path))).cells)


def _as_if_run(cell, place, monkeypatch):
    """A run directory that says what it was made from and no more."""
    run = place / "run"
    run.mkdir()
    (run / "spec.yaml").write_text(yaml.safe_dump(cell.spec.canonical()))
    manifest = {"cell": cell.cell, "written_as": cell.label.canonical()}
    monkeypatch.setattr(reproduce.rundir, "read_manifest", lambda run: manifest)
    monkeypatch.setattr(reproduce.rundir, "fault", lambda run, cell: None)
    return run


def test_a_run_is_not_reproduced_with_other_weights(place, write_experiment, monkeypatch):
    weights = place / "encoder"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"old")
    kd = {"teacher": "template", "profile": {"encoder": {"model": str(weights)}}}
    cell = _kd_cell(write_experiment("weights", {"variants": {"plain": {}, "kd": kd}}))
    run = _as_if_run(cell, place, monkeypatch)
    assert reproduce.load_cell(run)[0].cell == cell.cell
    (weights / "model.safetensors").write_bytes(b"tuned")
    with pytest.raises(
        StoreError, match="run: the encoder weights are not those that the run was planned with"
    ):
        reproduce.load_cell(run)
    # Nor is anything built at the old address.
    with pytest.raises(ProfileError, match="the encoder weights are not those"):
        build(place / "results", [cell])


def test_a_run_is_not_reproduced_with_other_confidences(kd, place, monkeypatch):
    confidence = _confidence(place / "a.csv", 0.5)
    cell = _kd_cell(kd(confidence=confidence))
    run = _as_if_run(cell, place, monkeypatch)
    assert reproduce.load_cell(run)[0].cell == cell.cell
    _confidence(place / "a.csv", 0.7)
    with pytest.raises(StoreError, match="file of confidences is not the one"):
        reproduce.load_cell(run)


@pytest.mark.parametrize(
    ("distill", "match"),
    [
        ({"schedule": "cosin"}, "distill.schedule.*did you mean 'cosine'"),
        ({"gradient_conflict": "pc-grad"}, "did you mean 'pcgrad'"),
        ({"distil_epochs": None}, "distil_epochs: null"),
        ({"layer": [1, 2]}, r"layers 1\.\.1 and -1"),
        ({"pooling": "meam"}, "did you mean 'mean'"),
    ],
)
def test_a_bad_choice_stops_before_any_cell(kd, place, distill, match):
    with pytest.raises(SpecError, match=match):
        build(place / "results", load_experiment(kd(**distill)).cells)
