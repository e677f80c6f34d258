import importlib.util
import sys
import types
from pathlib import Path

import pytest

from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.benchmark.trackers import TrackedReporter, make_trackers
from recbole_kd.errors import UserError

_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


def tracked(results, trackers):
    engine = SerialEngine(fake.fake_cell(0, None))
    options = {"device": "cpu", "build": fake.no_artefacts, "figures": False}
    reporter = TrackedReporter(JsonReporter(), trackers, results)
    return run_sweep(load_experiment("small"), results, engine, reporter, **options)


def test_tensorboard_holds_every_run_s_epochs_and_end(place, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracked(tmp_path / "r", make_trackers(["tensorboard"], tmp_path / "r"))
    runs = sorted((tmp_path / "r" / "trackers" / "tensorboard").iterdir())
    assert [r.name for r in runs] == [f"tiny_SASRec_{v}_seed_{s}" for v in ("plain", "wide") for s in (1, 2)]
    events = accumulator.EventAccumulator(str(runs[0])).Reload()
    assert [e.value for e in events.Scalars("loss")] == [1.0]
    assert events.Scalars("test_NDCG@10")


class Recorder(types.ModuleType):
    """Stands in for a tracker's package and writes down every call; what it returns records too."""

    def __init__(self, name, calls=None):
        super().__init__(name)
        self.calls = [] if calls is None else calls

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(name, self.calls)

    def __call__(self, *arguments, **named):
        self.calls.append((self.__name__, arguments, named))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.fixture
def recorded(place, tmp_path, monkeypatch):
    """Run the small experiment with a recorder in place of a package; return its calls."""

    def run(package):
        recorder = Recorder(package)
        monkeypatch.setitem(sys.modules, package, recorder)
        done = tracked(tmp_path / "r", make_trackers([package], tmp_path / "r"))
        assert (done.ran, done.failures) == (4, {})
        return recorder.calls

    return run


def named(calls, name):
    return [(arguments, more) for called, arguments, more in calls if called == name]


def test_what_mlflow_is_told(recorded, tmp_path, monkeypatch):
    """Without the package: the calls, which the test below makes for real where it is installed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    calls = recorded("mlflow")
    assert named(calls, "set_tracking_uri")[0][0][0] == f"sqlite:///{tmp_path}/r/trackers/mlflow.db"
    assert named(calls, "start_run")[0][1]["run_name"] == "tiny SASRec plain seed 1"
    assert [m.get("step") for _, m in named(calls, "log_metrics")] == [1, None] * 4
    assert all("@" not in key for arguments, _ in named(calls, "log_metrics") for key in arguments[0])
    assert named(calls, "log_params")[0][0][0]["variant"] == "plain"


def test_what_wandb_is_told(recorded, tmp_path):
    calls = recorded("wandb")
    assert [m["name"] for _, m in named(calls, "init")] == [
        f"tiny SASRec {v} seed {s}" for s in (1, 2) for v in ("plain", "wide")
    ]
    assert {m["dir"] for _, m in named(calls, "init")} == {f"{tmp_path}/r/trackers"}
    assert [m["step"] for _, m in named(calls, "log")] == [1] * 4
    assert all("test_NDCG@10" in arguments[0] for arguments, _ in named(calls, "update"))
    assert len(named(calls, "finish")) == 4


def test_mlflow(place, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked(tmp_path / "r", make_trackers(["mlflow"], tmp_path / "r"))
    found = mlflow.search_runs(experiment_names=["recbole_kd"])
    assert len(found) == 4
    assert set(found["params.variant"]) == {"plain", "wide"}
    assert found["metrics.test_NDCG_at_10"].notna().all()


def test_wandb_offline(place, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked(tmp_path / "r", make_trackers(["wandb"], tmp_path / "r"))
    assert len(list((tmp_path / "r" / "trackers" / "wandb").glob("offline-run-*/*.wandb"))) == 4


def test_a_broken_tracker_costs_a_line_and_not_the_sweep(place, tmp_path, capsys):
    class Broken:
        def log(self, name, params, epochs, final):
            raise RuntimeError("no route")

    done = tracked(tmp_path / "r", [Broken()])
    assert (done.ran, done.failures) == (4, {})
    assert capsys.readouterr().out.count("tracker Broken: RuntimeError: no route") == 4


def test_unknown_or_absent_tracker_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'mlflow'"):
        make_trackers(["mlfow"], tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="--tracker wandb: the package 'wandb' is not installed"):
        make_trackers(["wandb"], tmp_path)
