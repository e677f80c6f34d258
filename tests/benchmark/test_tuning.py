import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from recbole_kd.benchmark import tuning, tuning_space
from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.executor import Outcome
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError, StoreError

pytest.importorskip("optuna")
_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)

SPACE = {
    "trials": 6,
    "seed": 3,
    "training_seed": 0,
    "sampler": "tpe",
    "startup_trials": 3,
    "shared": {
        "train.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
        "hparams.n_layers": {"choices": [1, 2]},
    },
    "by_backbone": {"SASRec": {"hparams.hidden_dropout_prob": {"low": 0.1, "high": 0.5}}},
    "method": {"distill.alpha": {"low": 0.1, "high": 0.9}},
}


@pytest.fixture
def space(place):
    (place / "properties" / "tuning").mkdir()
    (place / "properties" / "tuning" / "small.yaml").write_text(yaml.safe_dump(SPACE))
    (place / "e.npz").write_bytes(b"vectors")
    experiment = yaml.safe_load((place / "properties/experiment/small.yaml").read_text())
    experiment["variants"] = {
        "plain": {},
        "kd": {"embeddings": str(place / "e.npz"), "trust_unverified": True},
    }
    (place / "properties/experiment/small.yaml").write_text(yaml.safe_dump(experiment))
    return tuning_space.load_tuning("small")


def learn(task):
    """Best where the learning rate is 0.01."""
    rate = task.spec["student"]["train"]["learning_rate"]
    fake.write_fake_run(Path(task.results), task.cell, task.label, valid=1 - abs(rate - 0.01))
    return Outcome(task.cell, "done")


def search(space, results, function=learn):
    path = tuning.tune(
        load_experiment("small"),
        space,
        results,
        SerialEngine(function),
        JsonReporter(),
        device="cpu",
        build=fake.no_artefacts,
    )
    return json.loads(path.read_text())


def test_every_method_gets_the_same_trials_and_shared_space(space, tmp_path):
    plain, kd = search(space, tmp_path / "r")
    assert len(plain["trials"]) == len(kd["trials"]) == 6
    assert plain["metric"] == kd["metric"] == "NDCG@10"
    shared = {"train.learning_rate", "hparams.n_layers", "hparams.hidden_dropout_prob"}
    assert all(set(t["params"]) == shared for t in plain["trials"])
    assert all(set(t["params"]) == shared | {"distill.alpha"} for t in kd["trials"])
    for trial in (*plain["trials"], *kd["trials"]):
        assert trial["value"] == pytest.approx(1 - abs(trial["params"]["train.learning_rate"] - 0.01))


def test_the_first_trial_is_what_is_trained_untuned(space, tmp_path):
    """So that --tuned ends below the defaults in no validation; ones outside the space are drawn."""
    cells = {c.label.variant: c.spec.student for c in load_experiment("small").cells}
    space = space.model_copy(
        update={"by_backbone": {"SASRec": {"train.train_batch_size": tuning_space.Range(choices=[7, 9])}}}
    )
    plain, kd = search(space, tmp_path / "r")
    for study in (plain, kd):
        student, first = cells[study["variant"]], study["trials"][0]["params"]
        assert first["train.learning_rate"] == student.train.learning_rate
        assert first["hparams.n_layers"] == student.hparams["n_layers"]
        assert student.train.train_batch_size not in (7, 9)
        assert first["train.train_batch_size"] in (7, 9)
    assert kd["trials"][0]["params"]["distill.alpha"] == cells["kd"].distill.alpha
    without = search(space.model_copy(update={"start_with_defaults": False}), tmp_path / "without")
    assert without[0]["trials"][0]["params"] != plain["trials"][0]["params"]


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(space, tmp_path):
    whole = search(space, tmp_path / "whole")
    count = []

    def dies(task):
        count.append(task.cell)
        if len(count) == 5:
            raise KeyboardInterrupt
        return learn(task)

    with pytest.raises(KeyboardInterrupt):
        search(space, tmp_path / "r", dies)
    assert search(space, tmp_path / "r") == whole


def test_more_trials_continue_the_same_study(space, tmp_path):
    few = search(space.model_copy(update={"trials": 4}), tmp_path / "r")
    many = search(space, tmp_path / "r")
    assert [s["trials"][:4] for s in many] == [s["trials"] for s in few]
    assert many == search(space, tmp_path / "whole")


def test_tuned_cells_have_the_best_parameters_and_the_experiment_s_seeds(space, tmp_path):
    studies = search(space, tmp_path / "r")
    best = tuning.tuned(load_experiment("small"), tmp_path / "r")
    assert best.name == "small-tuned"
    assert (tmp_path / "r" / "small-tuned" / "tuning.json").is_file()
    for study in studies:
        top = max(study["trials"], key=lambda t: t["value"])["params"]
        cells = [c for c in best.cells if c.label.variant == study["variant"]]
        assert {c.label.seed for c in cells} == {c.spec.seed for c in cells} == {1, 2}
        assert all(c.spec.student.train.learning_rate == top["train.learning_rate"] for c in cells)
        assert all(c.cell == c.spec.address() for c in cells)


def test_unequal_or_absent_tuning_is_refused(space, tmp_path):
    with pytest.raises(StoreError, match=r"run 'run_benchmark\.py tune small' first"):
        tuning.tuned(load_experiment("small"), tmp_path / "r")
    search(space, tmp_path / "r")
    path = tmp_path / "r" / "small" / "tuning.json"
    studies = json.loads(path.read_text())
    studies[1]["trials"].pop()
    path.write_text(json.dumps(studies))
    with pytest.raises(StoreError, match="unfair: 'tiny SASRec kd' had 5 trials, 'tiny SASRec plain' 6"):
        tuning.tuned(load_experiment("small"), tmp_path / "r")


def test_failed_trials_count_and_are_said(space, tmp_path, capsys):
    def sometimes(task):
        if task.spec["student"]["hparams"]["n_layers"] == 2:
            return Outcome(task.cell, "failed", error="ValueError: on purpose")
        return learn(task)

    plain, kd = search(space, tmp_path / "r", sometimes)
    assert len(plain["trials"]) == len(kd["trials"]) == 6
    assert any(t["value"] is None for t in plain["trials"])
    assert "on purpose" in capsys.readouterr().out


def test_slips_in_a_space(space, place):
    path = place / "properties/tuning/small.yaml"
    text = path.read_text()
    path.write_text(text.replace("low: 0.001", "lo: 0.001"))
    with pytest.raises(SpecError, match=r"small\.yaml:\d+: tuning: unknown key .*did you mean 'low'"):
        tuning_space.load_tuning("small")
    path.write_text(text.replace("train.learning_rate", "train.learnin_rate"))
    cell = load_experiment("small").cells[0]
    with pytest.raises(SpecError, match=r"did you mean 'train\.learning_rate'"):
        tuning.with_point(cell, {"train.learnin_rate": 0.1}, 0)


def test_the_report_shows_best_value_against_trials_for_baseline_and_method(space, tmp_path):
    from analysis.report.extras import read_list, tuning_frame

    studies = search(space, tmp_path / "r")
    folder = tmp_path / "r" / "small"
    frame = tuning_frame(read_list(folder / "tuning.json"))
    assert list(frame["study"].unique()) == ["tiny SASRec plain", "tiny SASRec kd"]
    for study in studies:
        part = frame[frame["study"] == study["name"]]
        values = [trial["value"] for trial in study["trials"]]
        assert part["trial"].tolist() == list(range(6))
        assert part["best"].tolist() == [max(values[: n + 1]) for n in range(6)]
    assert {path.name for path in folder.iterdir()} == {"tuning.json", "tuning.journal"}


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def test_a_second_tuner_of_the_same_experiment_is_refused(space, tmp_path):
    """The lock is the one that the search takes, held while a trial of another process trains."""
    refused = []

    def meanwhile(task):
        script = (
            "import sys; from pathlib import Path; from recbole_kd.benchmark.locks import try_lock\n"
            "with try_lock(Path(sys.argv[1]), 'tune-small') as held: print(held)"
        )
        other = [sys.executable, "-c", script, str(tmp_path / "r")]
        refused.append(subprocess.run(other, capture_output=True, text=True, check=True).stdout.strip())
        return learn(task)

    search(space.model_copy(update={"trials": 1}), tmp_path / "r", meanwhile)
    assert refused == ["False", "False"]
    with try_lock(tmp_path / "r", "tune-small") as held:
        assert held
        with pytest.raises(StoreError, match="another process is tuning 'small'"):
            search(space, tmp_path / "r")


def test_prune_keeps_trials_unless_asked(space, tmp_path, capsys):
    studies = search(space, tmp_path / "r")
    cells = {path.name for path in (tmp_path / "r" / "runs").iterdir()}
    assert len(cells) == len({t["cell"] for s in studies for t in s["trials"]})
    assert call("prune", "--yes", "--results", tmp_path / "r") == 0
    assert {path.name for path in (tmp_path / "r" / "runs").iterdir()} == cells
    assert call("prune", "--yes", "--trials", "--results", tmp_path / "r") == 0
    assert not list((tmp_path / "r" / "runs").iterdir())
    # The values are in the history: tuned cells need no trial's run.
    assert tuning.tuned(load_experiment("small"), tmp_path / "r").name == "small-tuned"
    capsys.readouterr()


def test_plan_and_rerun_of_tuned_cells(space, tmp_path, capsys):
    results = tmp_path / "r"
    assert call("plan", "small", "--tuned", "--results", results) != 0
    assert "run_benchmark.py tune small" in capsys.readouterr().err
    search(space, results)
    capsys.readouterr()
    assert call("plan", "small", "--tuned", "--results", results, "--json") == 0
    planned = json.loads(capsys.readouterr().out)["cells"]
    wanted = {c.cell for c in tuning.tuned(load_experiment("small"), results, keep=False).cells}
    assert {c["cell"] for c in planned} == wanted
    assert wanted.isdisjoint({c.cell for c in load_experiment("small").cells})
    assert not (results / "small-tuned").exists(), "a plan writes nothing"
    assert call("rerun", "small", "--tuned", "--failed", "--results", results) == 0
    assert "no cell of small-tuned has failed" in capsys.readouterr().out


def test_models_under_recboles_trainer_have_the_space_of_row_batches(space):
    rows = {"train.train_batch_size": {"choices": [256, 2048]}}
    spec = tuning_space.TuningSpec.model_validate({**SPACE, "recbole": rows})
    ours, recbole = spec.space("SASRec", distilled=False), spec.space("NARM", False, prefix_mode=True)
    assert set(recbole) == {"train.train_batch_size"}
    assert "train.train_batch_size" not in ours
    assert set(spec.space("SASRec", distilled=True)) == set(ours) | {"distill.alpha"}


def two_backbones(place):
    path = place / "properties/experiment/small.yaml"
    experiment = yaml.safe_load(path.read_text()) | {"backbones": ["SASRec", "BERT4Rec"]}
    path.write_text(yaml.safe_dump(experiment))


def part(space, results, backbone):
    loaded = load_experiment("small")
    cells = [c for c in loaded.cells if c.label.backbone == backbone]
    path = tuning.tune(
        replace(loaded, cells=cells),
        space,
        results,
        SerialEngine(learn),
        JsonReporter(),
        device="cpu",
        build=fake.no_artefacts,
    )
    return [(s["backbone"], s["variant"]) for s in json.loads(path.read_text())]


def planned_backbones(capsys, *arguments):
    capsys.readouterr()
    assert call("plan", "small", "--tuned", *arguments, "--json") == 0
    return {c["backbone"] for c in json.loads(capsys.readouterr().out)["cells"]}


def test_a_part_is_tuned_and_run_without_the_rest(space, place, tmp_path, capsys):
    two_backbones(place)
    results = tmp_path / "r"
    part(space, results, "SASRec")
    only = ["--only", "backbone=SASRec", "--results", results]
    assert planned_backbones(capsys, *only) == {"SASRec"}
    assert call("plan", "small", "--tuned", "--results", results) != 0
    assert "'tiny BERT4Rec plain' was not tuned" in capsys.readouterr().err
    assert call("plan", "small", "--tuned", "--only", "variant=kd", "--results", results) != 0
    assert "'tiny BERT4Rec kd' was not tuned" in capsys.readouterr().err
    assert call("rerun", "small", "--tuned", "--failed", "--results", results) == 0


def test_what_was_tuned_before_is_kept(space, place, tmp_path, capsys):
    two_backbones(place)
    results = tmp_path / "r"
    sasrec, bert = ([(backbone, v) for v in ("plain", "kd")] for backbone in ("SASRec", "BERT4Rec"))
    assert part(space, results, "SASRec") == sasrec
    assert part(space, results, "BERT4Rec") == sasrec + bert
    assert part(space, results, "SASRec") == sasrec + bert
    assert planned_backbones(capsys, "--results", results) == {"SASRec", "BERT4Rec"}
    loaded = load_experiment("small")
    wanted = [c for c in loaded.cells if c.label.backbone == "SASRec"]
    # The tables of the tuned experiment keep what another command ran, if it can be compared.
    assert len(tuning.tuned(loaded, results, wanted=wanted).cells) == len(loaded.cells)
    part(space.model_copy(update={"trials": 7}), results, "BERT4Rec")
    assert len(tuning.tuned(loaded, results, wanted=wanted).cells) == len(wanted)


def test_methods_that_were_searched_in_another_way_are_not_compared(space, place, tmp_path):
    two_backbones(place)
    results = tmp_path / "r"
    part(space, results, "SASRec")
    part(space.model_copy(update={"method": None}), results, "BERT4Rec")
    with pytest.raises(StoreError, match="unfair: 'tiny SASRec plain' and 'tiny BERT4Rec plain' were not"):
        tuning.tuned(load_experiment("small"), results)


def edit(path, change):
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def own_model(place):
    text = (Path(__file__).resolve().parents[2] / "properties" / "model" / "SASRec.yaml").read_text()
    path = place / "properties" / "model" / "SASRec.yaml"
    path.write_text(text)
    edit(path, lambda model: model["train"].update(stopping_step=model["train"]["stopping_step"] + 1))


SMALL, TINY = "properties/experiment/small.yaml", "properties/dataset/tiny.yaml"


@pytest.mark.parametrize(
    "change",
    [
        lambda place: edit(place / TINY, lambda d: d["split"].update(protocol="temporal")),
        lambda place: edit(place / TINY, lambda d: d["filter"].update(min_rating=2)),
        lambda place: edit(place / SMALL, lambda d: d["variants"].update(plain={"train": {"epochs": 3}})),
        own_model,
    ],
    ids=["split", "filter", "variant", "model"],
)
def test_points_that_were_tuned_for_another_configuration_are_refused(space, place, tmp_path, change):
    """Their parameters may have been chosen on what is the test part now."""
    search(space.model_copy(update={"trials": 1}), tmp_path / "r")
    change(place)
    with pytest.raises(StoreError) as error:
        tuning.tuned(load_experiment("small"), tmp_path / "r")
    path = tmp_path / "r" / "small" / "tuning.json"
    assert str(error.value) == (
        f"{path}: 'tiny SASRec plain' was tuned for another configuration; run 'run_benchmark.py tune small' "
        "again"
    )
    search(space.model_copy(update={"trials": 1}), tmp_path / "r")
    assert tuning.tuned(load_experiment("small"), tmp_path / "r").name == "small-tuned"


def test_a_method_that_has_changed_does_not_stop_the_others(space, place, tmp_path, capsys):
    results = tmp_path / "r"
    search(space.model_copy(update={"trials": 1}), results)
    edit(place / SMALL, lambda d: d["variants"]["kd"].update(distill={"pooling": "last"}))
    loaded = load_experiment("small")
    plain, kd = ([c for c in loaded.cells if c.label.variant == v] for v in ("plain", "kd"))
    kept = tuning.tuned(loaded, results, wanted=plain).cells
    assert {c.label.variant for c in kept} == {"plain"}
    for wanted in (kd, None, ()):
        with pytest.raises(StoreError, match="'tiny SASRec kd' was tuned for another configuration"):
            tuning.tuned(loaded, results, wanted=wanted)
    assert call("rerun", "small", "--tuned", "--failed", "--results", results) != 0
    assert "'tiny SASRec kd' was tuned for another configuration" in capsys.readouterr().err


def test_a_history_that_does_not_say_what_was_tuned_is_refused(space, tmp_path):
    """Older ones cannot be checked."""
    search(space.model_copy(update={"trials": 1}), tmp_path / "r")
    path = tmp_path / "r" / "small" / "tuning.json"
    studies = json.loads(path.read_text())
    path.write_text(json.dumps([{k: v for k, v in s.items() if k != "configuration"} for s in studies]))
    for wanted in (None, ()):
        with pytest.raises(StoreError, match="'tiny SASRec plain' was tuned for another configuration"):
            tuning.tuned(load_experiment("small"), tmp_path / "r", wanted=wanted)


def test_another_seed_of_the_experiment_goes_on_with_the_same_search(space, place, tmp_path):
    from optuna import get_all_study_names
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    before = search(space.model_copy(update={"trials": 2}), tmp_path / "r")
    edit(place / SMALL, lambda d: d.update(seeds=[1, 2, 3]))
    assert len(tuning.tuned(load_experiment("small"), tmp_path / "r").cells) == 6
    assert search(space.model_copy(update={"trials": 2}), tmp_path / "r") == before
    backend = JournalFileBackend(str(tmp_path / "r" / "small" / "tuning.journal"))
    assert len(get_all_study_names(JournalStorage(backend))) == 2


def test_the_seed_of_the_trials_is_none_of_the_reported_ones(space, place, tmp_path):
    edit(place / SMALL, lambda d: d.update(seeds=[1, 0]))
    with pytest.raises(SpecError, match=r"small\.yaml: seeds: 0 is the training_seed of the trials"):
        search(space, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    search(space.model_copy(update={"training_seed": 7, "trials": 1}), tmp_path / "r")


@pytest.mark.parametrize("held", [{}, {"ndcg@10": 0.5}, {"Recall@20": 0.5, "MRR": 0.5}])
def test_a_run_whose_manifest_lacks_the_validation_metric_is_a_trial(space, tmp_path, held):
    """Another command wrote it, which reports other metrics or spells them in another way."""

    def other(task):
        outcome = learn(task)
        path = Path(task.results) / "runs" / task.cell / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["metrics"] = {"valid": held, "test": held}
        path.write_text(json.dumps(manifest))
        return outcome

    for study in search(space.model_copy(update={"trials": 2}), tmp_path / "r", other):
        for trial in study["trials"]:
            assert trial["value"] == pytest.approx(1 - abs(trial["params"]["train.learning_rate"] - 0.01))


def test_a_damaged_history_is_not_replaced(space, tmp_path):
    path = tmp_path / "r" / "small" / "tuning.json"
    path.parent.mkdir(parents=True)
    path.write_text("[{")
    with pytest.raises(StoreError, match=r"tuning\.json: cannot be read .*delete it"):
        search(space, tmp_path / "r")
    assert path.read_text() == "[{"
