"""Lists in an experiment: resolved, addressed, built, learned from; and attributes of profiles."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recbole_kd.benchmark import artefacts, reproduce, rundir
from recbole_kd.benchmark.executor import DONE, FAILED, CellTask, run_cell
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.plan import make_plan, tidy
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.benchmark.teacher_lists import states_beside
from recbole_kd.data.teacher_lists import load_teacher_lists
from recbole_kd.errors import ProfileError, SpecError
from tests.benchmark.conftest import SMALL

KL = {**SMALL, "distill": {"objective": "kl", "distil_epochs": 1}}
TEXT = {**KL, "teacher": "template", "lists": {"source": "text", "top": 5}}
OTHER = {"source": "recommender", "backbone": "GRU4Rec", "top": 4}
OTHER |= {"hparams": {"hidden_size": 8, "embedding_size": 8}, "train": {"epochs": 1}}


def _cells(write_experiment, **variants):
    path = write_experiment("lists", {"variants": {"plain": SMALL, **variants}, "seeds": [1]})
    return {c.label.variant: c for c in load_experiment(path).cells}


def _run(place: Path, planned) -> Path:
    results = place / "results"
    files = artefacts.build(results, [planned])[planned.cell]
    task = CellTask.build(
        results, planned.cell, planned.label, planned.spec, files, "cpu", ("NDCG@10", "MRR")
    )
    outcome = run_cell(task)
    assert outcome.status == DONE, outcome.trace
    return rundir.run_path(results, planned.cell)


def _csv(place: Path) -> Path:
    path = place / "llm.csv"
    rows = [
        {"user": f"u{u}", "rank": k, "item": f"i{(u + k) % 25 + 1}"} for u in range(1, 21) for k in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lists": {"source": "txt"}}, "lists.source 'txt' is unknown; did you mean 'text'"),
        ({"lists": {"source": "text", "topp": 3}}, "unknown key 'topp'; did you mean 'top'"),
        ({"lists": {"source": "text"}}, "lists from text need a 'teacher'"),
        (
            {"lists": {"source": "text"}, "teacher": "template", "distill": {}},
            "'mse' does not learn from lists",
        ),
        ({"lists": OTHER, "teacher": "template"}, "lists from recommender need no 'teacher'"),
        ({"teacher": "template"}, "objective 'kl' learns from lists"),
        ({"lists": {"source": "recommender", "backbone": "GRU4Rek"}}, "did you mean 'GRU4Rec'"),
        ({"lists": {**OTHER, "hparams": {"hidden": 3}}}, "did you mean 'hidden_size'"),
        ({"lists": {"source": "file"}}, "lists from file: 'path' = None"),
        (
            {"lists": {"source": "file", "path": "none.csv"}},
            "file of teacher lists 'none.csv' does not exist",
        ),
    ],
)
def test_a_slip_is_one_line_with_file_and_line(write_experiment, changes, expected):
    with pytest.raises((SpecError, ProfileError)) as error:
        _cells(write_experiment, kd={**KL, **changes})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert ".yaml:" in str(error.value).split(" ")[0]


def test_the_address_covers_the_lists_and_not_their_place(place, write_experiment):
    file = {"source": "file", "trust_unverified": True}
    path = _csv(place)
    other = place / "moved.csv"
    other.write_bytes(path.read_bytes())
    kinds = {
        "file": {**KL, "lists": {**file, "path": str(path)}},
        "moved": {**KL, "lists": {**file, "path": str(other)}},
        "cut": {**KL, "lists": {**file, "path": str(path), "top": 2}},
        "text": TEXT,
        "long": {**TEXT, "lists": {"source": "text", "top": 6}},
        "gru": {**KL, "lists": OTHER},
        "gru-2": {**KL, "lists": {**OTHER, "seed": 2}},
        "gru-wide": {**KL, "lists": {**OTHER, "hparams": {"hidden_size": 16, "embedding_size": 8}}},
    }
    cells = _cells(write_experiment, **kinds)
    assert cells["file"].cell == cells["moved"].cell
    assert len({c.cell for c in cells.values()}) == len(cells) - 1
    path.write_text(path.read_text().replace("i3", "i4"))
    assert _cells(write_experiment, **kinds)["file"].cell != cells["file"].cell


def test_lists_of_another_recommender_are_its_own_best_items(place, write_experiment):
    """The teacher's run is made once as a plain cell; its lists equal a brute-force sort of its scores."""
    import torch
    from safetensors.torch import load_file

    from recbole_kd.models.build import build_student

    planned = _cells(write_experiment, kd={**KL, "lists": OTHER})["kd"]
    run = _run(place, planned)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["profile_verified"]
    assert manifest["profile_coverage"] == 1.0
    address = planned.spec.lists["address"]
    assert rundir.fault(rundir.run_path(place / "results", address), address) is None
    history = pq.read_table(run / "history.parquet").to_pandas()
    assert np.isfinite(history["loss_distil"][0])
    split = artefacts.read_split(artefacts.split_file(place / "results", planned.spec))
    (file,) = (place / "results" / "cache" / "lists").glob("GRU4Rec-*.parquet")
    lists = load_teacher_lists(file, split, trust_unverified=False)
    model = build_student(
        "GRU4Rec",
        planned.spec.lists["cell"]["student"]["hparams"],
        n_items=split.dataset.n_items,
        max_len=8,
        seed=0,
    )
    model.load_state_dict(load_file(rundir.run_path(place / "results", address) / "model.safetensors"))
    model.eval()
    for r in range(5):
        history = split.train.row(r)[-8:]
        padded = torch.zeros(1, 8, dtype=torch.int64)
        padded[0, : len(history)] = torch.from_numpy(history)
        with torch.no_grad():
            scores = (model.serve_states(padded, torch.tensor([len(history)])) @ model.item_table()[0].t())[0]
        scores[split.train.row(r)] = -np.inf
        scores[0] = -np.inf
        assert lists.items[split.train.users[r]].tolist() == scores.argsort(descending=True)[:4].tolist()


def test_lists_and_states_of_one_teacher_in_one_term(place, write_experiment):
    """Both halves of DE-RRD: the states are the teacher's own, the loss is the sum of the two."""
    import torch
    from safetensors.torch import load_file

    from recbole_kd.benchmark.teacher_lists import read, states_beside
    from recbole_kd.models.build import build_student

    also = {"objective": "experts", "weight": 0.5}
    both = {"objective": "relaxed_ranking", "distil_epochs": 1, "pooling": "last", "also": also}
    kd = {**KL, "lists": OTHER, "distill": both}
    # Either may come first: the one without needs no states of the recommender.
    planned = _cells(write_experiment, alone={**kd, "distill": {**both, "also": None}}, kd=kd)
    cells = [planned["alone"], planned["kd"]]
    assert len({artefacts.build(place / "first", cells)[c.cell].teacher for c in cells}) == 1
    assert planned["kd"].spec.student.distill.projector == "experts"
    assert planned["alone"].spec.student.distill.canonical().get("also") is None
    run = _run(place, planned["kd"])
    assert np.isfinite(pq.read_table(run / "history.parquet").to_pandas()["loss_distil"][0])
    assert not [key for key in load_file(run / "model.safetensors") if key.startswith("distil_head")]
    split = artefacts.read_split(artefacts.split_file(place / "results", planned["kd"].spec))
    folder = place / "results" / "cache" / "lists"
    (file,) = [f for f in folder.glob("GRU4Rec-*.parquet") if "states" not in f.name]
    assert states_beside(file).is_file()
    lists = read(file, planned["kd"].spec, split)
    teacher = planned["kd"].spec.lists["cell"]["student"]
    model = build_student("GRU4Rec", teacher["hparams"], n_items=split.dataset.n_items, max_len=8, seed=0)
    address = planned["kd"].spec.lists["address"]
    model.load_state_dict(load_file(rundir.run_path(place / "results", address) / "model.safetensors"))
    model.eval()
    history = split.train.row(3)[-8:]
    padded = torch.zeros(1, 8, dtype=torch.int64)
    padded[0, : len(history)] = torch.from_numpy(history)
    with torch.no_grad():
        state = model.serve_states(padded, torch.tensor([len(history)]))[0]
    found = lists.vectors.vectors[split.train.users[3], 0]
    np.testing.assert_allclose(found, state.numpy(), rtol=1e-4, atol=1e-6)
    _sum_of_two(planned["kd"].spec.student, lists, split)


def _sum_of_two(spec, lists, split):
    """Loss of the joint head = loss of a list head + .5 * loss of a vector head with the same draws."""
    import torch

    from recbole_kd.models.batch import SequenceBatches
    from recbole_kd.models.build import build_student

    batch = next(SequenceBatches(split.train, 8, 5, shift=True, packed=True).epoch(np.random.default_rng(0)))
    given = torch.from_numpy(lists.items), torch.from_numpy(lists.score), torch.from_numpy(lists.mask)
    states = torch.from_numpy(lists.vectors.vectors), torch.from_numpy(lists.vectors.mask)
    losses = []
    for which in ("both", "lists", "vectors"):
        model = build_student(spec.model, spec.hparams, n_items=split.dataset.n_items, max_len=8, seed=1)
        if which == "both":
            model.attach_both(spec.distill, given, states, 7)
        elif which == "lists":
            model.attach_lists(spec.distill, *given, 7)
        else:
            second = {"objective": "experts", "objective_args": {}}
            model.attach_teacher(spec.distill.model_copy(update=second), *states, 7)
        losses.append(model.distil_loss(model.encode(batch, None), batch))
    torch.testing.assert_close(losses[0], losses[1] + 0.5 * losses[2])
    losses[0].backward()


def _replace_teacher(place, planned):
    """Put another training (another seed) of the teacher at the address of its run; return that run."""
    results, lists = place / "results", planned.spec.lists
    run = rundir.run_path(results, lists["address"])
    shutil.rmtree(run)
    other = CellSpec.model_validate({**lists["cell"], "seed": 9})
    files = artefacts.Artefacts(artefacts.split_file(results, other), None, None)
    task = CellTask.build(results, run.name, planned.label, other, files, "cpu", ("NDCG@10",))
    assert run_cell(task).status == DONE
    return run


def test_what_a_replaced_recommender_taught_is_made_again(place, write_experiment):
    """Lists, states and the cells that learned them; the same as where only the new run ever was."""
    also = {"objective": "experts", "weight": 0.5}
    distill = {"objective": "relaxed_ranking", "distil_epochs": 1, "pooling": "last", "also": also}
    planned = _cells(write_experiment, kd={**KL, "lists": OTHER, "distill": distill})["kd"]
    results, fresh = place / "results", place / "fresh"
    taught = _run(place, planned)
    path = artefacts.build(results, [planned])[planned.cell].teacher
    assert [s.status for s in make_plan([planned], results).states] == ["exists"]
    before = [pq.read_table(f).to_pandas() for f in (path, states_beside(path))]
    run = _replace_teacher(place, planned)
    (state,) = make_plan([planned], results).states
    assert state.status == "corrupt"
    assert state.reason == f"{taught}: its teacher {run.name} has been trained again and ranks otherwise"
    artefacts.build(results, [planned])
    shutil.copytree(run, rundir.run_path(fresh, run.name))
    alone = artefacts.build(fresh, [planned])[planned.cell].teacher
    for old, made, expected in zip(before, *((p, states_beside(p)) for p in (path, alone)), strict=True):
        now = pq.read_table(made).to_pandas()
        pd.testing.assert_frame_equal(now, pq.read_table(expected).to_pandas())
        assert not now.astype(str).equals(old.astype(str))
    tidy(results, make_plan([planned], results))
    assert _run(place, planned) == taught
    assert [s.status for s in make_plan([planned], results).states] == ["exists"]


def test_lists_outlive_the_run_that_was_deleted(place, write_experiment):
    planned = _cells(write_experiment, kd={**KL, "lists": OTHER})["kd"]
    results = place / "results"
    path = artefacts.build(results, [planned])[planned.cell].teacher
    content = path.read_bytes()
    shutil.rmtree(rundir.run_path(results, planned.spec.lists["address"]))
    assert artefacts.build(results, [planned])[planned.cell].teacher == path
    assert path.read_bytes() == content
    assert not rundir.run_path(results, planned.spec.lists["address"]).exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lists": OTHER, "also": {"objective": "exprts", "weight": 1.0}}, "did you mean 'experts'"),
        ({"lists": OTHER, "also": {"objective": "kl", "weight": 1.0}}, "takes an objective over vectors"),
        ({"lists": OTHER, "also": {"objective": "mse"}}, "also.weight' is missing"),
        ({"lists": {"source": "text"}, "also": {"objective": "mse", "weight": 1.0}}, "of a recommender"),
    ],
)
def test_a_slip_in_the_second_objective(write_experiment, changes, expected):
    also = changes.pop("also") if "also" in changes else None
    kd = {**KL, **changes, "distill": {**KL["distill"], "also": also}}
    if changes["lists"]["source"] == "text":
        kd["teacher"] = "template"
    with pytest.raises(SpecError) as error:
        _cells(write_experiment, kd=kd)
    assert expected in str(error.value)
    assert ".yaml:" in str(error.value).split(" ")[0]


def test_lists_from_a_file_of_a_language_model(place, write_experiment):
    lists = {"source": "file", "path": str(_csv(place)), "trust_unverified": True, "top": 2}
    for objective in ("ranking_distillation", "relaxed_ranking", "dllm2rec"):
        kd = {**KL, "lists": lists, "distill": {"objective": objective, "distil_epochs": 1}}
        run = _run(place, _cells(write_experiment, kd=kd)["kd"])
        manifest = json.loads((run / "manifest.json").read_text())
        assert manifest["profile_verified"] is False
        assert manifest["profile_coverage"] == pytest.approx(20 / 30)


def test_text_lists_rank_by_the_encoder_of_the_teacher(place, write_experiment, monkeypatch):
    """With an encoder that counts words, a drama lover's list begins with dramas."""

    def encode(texts, spec, progress=None):
        return np.array([[t.count("Drama") + t.count("drama"), t.count("omed")] for t in texts], np.float32)

    monkeypatch.setattr("profiles.embed.encode_texts", encode)
    monkeypatch.setattr("profiles.lists.encode_texts", encode)
    planned = _cells(write_experiment, kd=TEXT)["kd"]
    run = _run(place, planned)
    (file,) = (place / "results" / "cache" / "lists").glob("text-*.parquet")
    frame = pq.read_table(file).to_pandas()
    assert (frame.groupby("user").size() == 5).all()
    split = artefacts.read_split(artefacts.split_file(place / "results", planned.spec))
    for r in range(len(split.train)):
        user = split.dataset.user_tokens[split.train.users[r]]
        seen = set(split.dataset.item_tokens[split.train.row(r)])
        assert not seen & set(frame.loc[frame["user"] == user, "item"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["profile"]["source"] == "text"
    assert manifest["profile_verified"]


def test_tfidf_has_no_common_space(place, write_experiment):
    planned = _cells(write_experiment, kd={**TEXT, "teacher": "tfidf"})["kd"]
    with pytest.raises(ProfileError, match="TF-IDF"):
        artefacts.build(place / "results", [planned])


def test_attributes_are_what_the_profiles_name(place, write_experiment):
    kd = {**SMALL, "teacher": "template", "distill": {"objective": "attributes", "distil_epochs": 1}}
    planned = _cells(
        write_experiment, kd=kd, shuffled={**kd, "profile": {"placebo": {"kind": "shuffled", "seed": 1}}}
    )
    run = _run(place, planned["kd"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["profile"]["attributes"]) == {"category: Drama", "category: Comedy"}
    _run(place, planned["shuffled"])
    own, other = (
        pq.read_table(f).to_pandas()
        for f in sorted((place / "results" / "cache" / "profiles").glob("attributes-*"), key=lambda f: "x")
    )
    assert {tuple(v) for v in own["vector"]} <= {(0, 1), (1, 0), (1, 1)}
    assert sorted(map(tuple, own["vector"])) == sorted(map(tuple, other["vector"]))


def test_clusters_are_learned_from_vectors_of_a_file(place, write_experiment):
    from tests.test_cli import embeddings

    distill = {"objective": "cluster", "objective_args": {"n_clusters": 3}, "distil_epochs": 1}
    kd = {**SMALL, "embeddings": str(embeddings(place)), "distill": distill}
    planned = _cells(write_experiment, kd=kd)["kd"]
    assert planned.spec.student.distill.objective_args == {"n_clusters": 3, "seed": 0}
    history = pq.read_table(_run(place, planned) / "history.parquet").to_pandas()
    assert 0 < history["loss_distil"][0] < 3


def test_a_teacher_that_a_worker_is_training_is_waited_for(place, write_experiment, monkeypatch):
    """It may be a cell of the same sweep, which trains while the lists are built."""
    planned = _cells(write_experiment, kd={**KL, "lists": OTHER})["kd"]
    results = place / "results"
    waited = []
    with ExitStack() as worker:
        assert worker.enter_context(try_lock(results, f"cell-{planned.spec.lists['address']}"))

        def sleep(seconds):
            waited.append(seconds)
            worker.close()

        monkeypatch.setattr(time, "sleep", sleep)
        artefacts.build(results, [planned])
    assert waited
    assert rundir.run_path(results, planned.spec.lists["address"]).is_dir()


def test_a_file_of_lists_that_changed_since_planning_is_refused(place, write_experiment):
    path = _csv(place)
    lists = {"source": "file", "path": str(path), "trust_unverified": True, "top": 2}
    planned = _cells(write_experiment, kd={**KL, "lists": lists})["kd"]
    run = _run(place, planned)
    assert reproduce.load_cell(run)[0].cell == planned.cell
    path.write_text(path.read_text().replace("i3", "i4"))
    with pytest.raises(ProfileError, match=r"llm\.csv: not the file of teacher lists .*put it back"):
        reproduce.load_cell(run)
    with pytest.raises(ProfileError, match=r"llm\.csv: not the file of teacher lists"):
        artefacts.build(place / "second", [planned])


def test_an_embedding_file_that_changed_since_planning_is_refused(place, write_experiment):
    from tests.test_cli import embeddings

    path = embeddings(place)
    planned = _cells(write_experiment, kd={**SMALL, "embeddings": str(path)})["kd"]
    run = _run(place, planned)
    results = place / "second"
    files = artefacts.build(results, [planned])[planned.cell]
    assert reproduce.load_cell(run)[0].cell == planned.cell
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(ProfileError, match=rf"{path}: not the embedding file .*put it back"):
        reproduce.load_cell(run)
    with pytest.raises(ProfileError, match=rf"{path}: not the embedding file"):
        artefacts.build(place / "third", [planned])
    # Changed after the build, before a worker reads it: the run must not take the address of the old one.
    task = CellTask.build(results, planned.cell, planned.label, planned.spec, files, "cpu", ("NDCG@10",))
    outcome = run_cell(task)
    assert outcome.status == FAILED
    assert f"{path}: not the embedding file" in outcome.error
    path.unlink()
    with pytest.raises(ProfileError, match=rf"{path}: the embedding file .* is gone; put it back"):
        reproduce.load_cell(run)
