import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.filters import parse_filter
from recbole_kd.benchmark.plan import make_plan
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep

DRIVER = Path(__file__).with_name("fake_cells.py")
_SPEC = importlib.util.spec_from_file_location("fake_cells", DRIVER)
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


def sweep(experiment, results, engine, **more):
    more = {"device": "cpu", "build": fake.no_artefacts, "figures": False, **more}
    return run_sweep(load_experiment(experiment), results, engine, JsonReporter(), **more)


def outputs(results, name="small"):
    """Bytes of every file that an experiment leaves beside its runs."""
    return {
        p.name: p.read_bytes()
        for p in sorted((results / name).iterdir())
        if p.suffix in (".md", ".csv", ".tex", ".json")
    }


def test_only_missing_cells_run(place, tmp_path, capsys):
    log = tmp_path / "log"
    first = sweep("small", tmp_path / "r", SerialEngine(fake.fake_cell(0, log)))
    again = sweep("small", tmp_path / "r", SerialEngine(fake.fake_cell(0, log)))
    assert (first.ran, first.reused, again.ran, again.reused) == (4, 0, 0, 4)
    assert len(log.read_text().splitlines()) == 4
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == ["plan", *["cell"] * 4, "end", "plan", "end"]


def test_only_chooses_cells_and_the_record_names_all(place, tmp_path):
    keep = parse_filter("variant=wide & seed!=1")
    chosen = [c for c in load_experiment("small").cells if keep(c)]
    done = sweep("small", tmp_path / "r", SerialEngine(fake.fake_cell(0, None)), cells=chosen)
    assert done.ran == 1
    record = json.loads((tmp_path / "r" / "small" / "experiment.json").read_text())
    assert len(record["cells"]) == 4


def test_a_failing_cell_is_recorded_and_the_sweep_goes_on(place, tmp_path):
    done = sweep("small", tmp_path / "r", SerialEngine(fake.fake_cell(0, None, failing="wide")))
    assert done.ran == 2
    record = json.loads((tmp_path / "r" / "small" / "experiment.json").read_text())
    assert [(f["variant"], f["seed"], f["error"]) for f in record["failures"]] == [
        ("wide", 1, "ValueError: on purpose"),
        ("wide", 2, "ValueError: on purpose"),
    ]
    assert all("Traceback" in f["traceback"] for f in record["failures"])
    sweep("small", tmp_path / "r", SerialEngine(fake.fake_cell(0, None)))
    assert json.loads((tmp_path / "r" / "small" / "experiment.json").read_text())["failures"] == []


def test_corrupt_runs_are_set_aside_and_run_again(place, tmp_path, capsys):
    results = tmp_path / "r"
    engine = SerialEngine(fake.fake_cell(0, None))
    sweep("small", results, engine)
    before = outputs(results)
    paths = sorted(rundir.finished(results))
    os.truncate(paths[0] / "ranks.parquet", 50)
    (paths[1] / "manifest.json").write_text("{ bad")
    capsys.readouterr()
    done = sweep("small", results, engine)
    assert (done.ran, done.reused) == (2, 2)
    notes = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines() if '"note"' in line]
    assert len(notes) == 2
    assert len(rundir.set_aside_folders(results)) == 2
    assert outputs(results) == before


def test_two_variants_that_are_the_same_run_once(place, write_experiment, tmp_path):
    path = write_experiment("same", {"variants": {"plain": {}, "twin": {"hparams": {}}}})
    log = tmp_path / "log"
    done = sweep(path, tmp_path / "r", SerialEngine(fake.fake_cell(0, log)))
    assert done.ran == 2
    assert len(log.read_text().splitlines()) == 2
    assert len(json.loads((tmp_path / "r" / "same" / "experiment.json").read_text())["cells"]) == 4


def test_nothing_is_left_of_a_sweep_that_cannot_start(place, tmp_path):
    from recbole_kd.errors import DataError

    def broken(results, planned):
        raise DataError("nobody to test")

    with pytest.raises(DataError, match="nobody to test"):
        run_sweep(
            load_experiment("small"),
            tmp_path / "a" / "b",
            SerialEngine(),
            JsonReporter(),
            device="cpu",
            build=broken,
        )
    assert not (tmp_path / "a").exists()


def test_what_was_bought_outlives_a_sweep_that_cannot_start(place, tmp_path):
    from recbole_kd.errors import DataError

    def broken(results, planned):
        (results / "cache" / "profiles").mkdir(parents=True)
        (results / "cache" / "profiles" / "texts.sqlite").write_bytes(b"a thousand calls")
        raise DataError("the next data set is malformed")

    with pytest.raises(DataError, match="malformed"):
        sweep("small", tmp_path / "r", SerialEngine(), build=broken)
    assert (tmp_path / "r" / "cache" / "profiles" / "texts.sqlite").read_bytes() == b"a thousand calls"


def test_estimates_come_from_cells_of_the_same_kind(place, tmp_path):
    cells = load_experiment("small").cells
    assert make_plan(cells, tmp_path / "r").seconds_left(1) is None
    fake.write_fake_run(tmp_path / "r", cells[0].cell, cells[0].label.canonical())
    plan = make_plan(cells, tmp_path / "r")
    assert plan.seconds_left(1) == 3.0
    assert plan.seconds_left(2) == 1.5


@pytest.mark.parametrize("text", ["variant", "colour=red", "seed>1"])
def test_a_filter_with_a_slip_is_refused(text):
    from recbole_kd.errors import SpecError

    with pytest.raises(SpecError, match="--only"):
        parse_filter(text)


def start(results, log, workers, seconds):
    command = [sys.executable, str(DRIVER), "small", str(results), str(workers), str(seconds), str(log)]
    root = str(DRIVER.parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def kill_when(driver, log, lines):
    """kill -9 the driver once ``lines`` cells are logged."""
    deadline = time.monotonic() + 120
    while (len(log.read_text().splitlines()) if log.exists() else 0) < lines:
        assert driver.poll() is None, driver.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()


def test_kill_9_of_the_driver_then_the_same_command(place, write_experiment, tmp_path):
    write_experiment("small", {"seeds": [1, 2, 3, 4]})
    sweep("small", tmp_path / "whole", SerialEngine(fake.fake_cell(0, None)))
    results, log = tmp_path / "r", tmp_path / "log"
    kill_when(start(results, log, workers=0, seconds=0.1), log, lines=3)
    orphan = rundir.runs_folder(results) / f".tmp-{load_experiment('small').cells[-1].cell}-host-1-abc"
    orphan.mkdir()
    done = sweep("small", results, SerialEngine(fake.fake_cell(0, log)))
    assert done.ran == 8 - done.reused
    assert done.reused >= 3
    finished = [line.split()[0] for line in log.read_text().splitlines()]
    assert sorted(finished) == sorted({c.cell for c in load_experiment("small").cells})
    assert outputs(results) == outputs(tmp_path / "whole")
    assert not list(rundir.orphans(results))


def test_dask_gives_the_same_table_and_two_drivers_share_the_work(place, write_experiment, tmp_path):
    write_experiment("small", {"seeds": [1, 2, 3, 4]})
    sweep("small", tmp_path / "whole", SerialEngine(fake.fake_cell(0, None)))
    results, log = tmp_path / "r", tmp_path / "log"
    other = start(results, log, workers=1, seconds=0.2)
    done = sweep("small", results, DaskEngine(1, function=fake.fake_cell(0.2, log)))
    text = other.communicate(timeout=120)[0]
    assert other.returncode == 0, text
    assert done.failures == {}
    finished = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(finished) == len(set(finished)) == 8
    assert outputs(results) == outputs(tmp_path / "whole")


@pytest.mark.slow
def test_five_kills_of_a_24_cell_sweep_on_dask(place, write_experiment, tmp_path):
    write_experiment("small", {"seeds": list(range(12))})
    sweep("small", tmp_path / "whole", SerialEngine(fake.fake_cell(0, None)))
    results, log = tmp_path / "r", tmp_path / "log"
    draw = random.Random(3)
    goal = 0
    for _ in range(5):
        have = len(log.read_text().splitlines()) if log.exists() else 0
        goal = have + draw.randint(1, 4)
        kill_when(start(results, log, workers=2, seconds=0.3), log, lines=goal)
        time.sleep(draw.random())
    done = sweep("small", results, DaskEngine(2, function=fake.fake_cell(0.05, log)))
    assert done.failures == {}
    finished = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(finished) == len(set(finished)) == 24
    assert outputs(results) == outputs(tmp_path / "whole")
    assert not list(rundir.orphans(results))


def test_a_run_reused_under_another_name_counts_in_the_table(place, write_experiment, tmp_path):
    small = {"hparams": {"n_layers": 1}}
    first = write_experiment("first", {"variants": {"plain": {}, "small": small}})
    other = write_experiment("other", {"variants": {"base": {}, "tiny": small}, "baseline": "base"})
    sweep(first, tmp_path / "r", SerialEngine(fake.fake_cell(0, None)))
    done = sweep(other, tmp_path / "r", SerialEngine(fake.fake_cell(0, None)))
    assert (done.ran, done.reused) == (0, 4)
    table = (tmp_path / "r" / "other" / "table.csv").read_text()
    assert table == (tmp_path / "r" / "first" / "table.csv").read_text().replace("small", "tiny").replace(
        "plain", "base"
    )


def vectors(results, seed, note=""):
    """Write the teacher file of these results anew; return its path and its vectors' digest."""
    import numpy as np

    from recbole_kd.benchmark import rooms
    from recbole_kd.data.profile_table import ProfileRows, write_embedding_file

    users = [f"u{i}" for i in range(3)]
    rows = ProfileRows.build(
        user=users,
        profile=[0] * 3,
        source_user=users,
        history_last=[1] * 3,
        history_hash=["0" * 16] * 3,
        vector=np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32),
    )
    path = rooms.profiles_folder(results) / "teacher.parquet"
    write_embedding_file(path, rows, {"teacher": "t", "note": note})
    return path, rows.digest()


def taught_cell(task, read=False):
    """A fake cell of the variant ``wide`` has a teacher and says which vectors it (its system) read."""
    from recbole_kd.benchmark import rooms
    from recbole_kd.data.profile_table import read_embedding_file

    outcome = fake.fake_cell(0, None)(task)
    if task.label["variant"] == "wide":
        file = rooms.profiles_folder(Path(task.results)) / "teacher.parquet"
        manifest = rundir.run_path(Path(task.results), task.cell) / "manifest.json"
        said = json.loads(manifest.read_text())
        used = {"name": file.name, "sha256": rooms.digest_of(file)}
        digest = read_embedding_file(file)[0].digest()
        if read:
            said |= {"inputs_file": used, "inputs": {"users": {"digest": digest}}}
        else:
            said |= {"profile_file": used, "profile_digest": digest}
        manifest.write_text(json.dumps(said))
    return outcome


@pytest.mark.parametrize(("read", "whose"), [(False, "its teacher's"), (True, "its profiles'")])
def test_runs_of_a_teacher_whose_vectors_changed_run_again(place, tmp_path, capsys, read, whose):
    results, engine = tmp_path / "r", SerialEngine(partial(taught_cell, read=read))
    first_digest = vectors(results, seed=1)[1]
    assert sweep("small", results, engine).ran == 4
    # The same vectors in another file (another manifest) are no reason to run again.
    path = vectors(results, seed=1)[0]
    before = path.read_bytes()
    assert vectors(results, seed=1, note="again")[1] == first_digest
    assert path.read_bytes() != before
    assert sweep("small", results, engine).ran == 0
    other = vectors(results, seed=2)[1]
    assert other != first_digest
    capsys.readouterr()
    done = sweep("small", results, engine)
    assert (done.ran, done.reused) == (2, 2)
    assert capsys.readouterr().out.count(f"{whose} vectors have changed") == 2
    assert len(rundir.set_aside_folders(results)) == 2
    assert sweep("small", results, engine).ran == 0


def test_a_teacher_built_anew_for_new_cells_makes_the_old_ones_run_again(place, write_experiment, tmp_path):
    results, engine = tmp_path / "r", SerialEngine(taught_cell)
    vectors(results, seed=1)
    sweep("small", results, engine)
    # The file is lost; the two cells of a new seed make the builder write it again, with other texts.
    path = write_experiment("more", {"seeds": [1, 2, 3]})
    (results / "cache" / "profiles" / "teacher.parquet").unlink()
    built = []

    def build(folder, planned):
        built.append(len(planned))
        if len(built) == 1:
            vectors(folder, seed=2)
        return fake.no_artefacts(folder, planned)

    done = sweep(path, results, engine, build=build)
    assert (done.ran, done.reused, built) == (4, 2, [2, 2])
