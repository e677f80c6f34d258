"""An OpenAI-compatible server that misbehaves on demand; standard library only."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"


class FaultServer(ThreadingHTTPServer):
    """Every distinct prompt meets the faults of ``script`` in order, then good answers.

    Attributes
    ----------
    script : dict of str to list of str
        Substring of the prompt -> faults of its first attempts.
    attempts : Counter
        Prompt -> calls.
    """

    daemon_threads = True

    def __init__(self, script: dict[str, list[str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.attempts: Counter[str] = Counter()
        self.running = self.most_running = 0
        self.times: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers_seen: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fault(self, prompt: str) -> str | None:
        with self.lock:
            number = self.attempts[prompt]
            self.attempts[prompt] += 1
            self.times.append(time.monotonic())
        faults = next((f for part, f in self.script.items() if part in prompt), [])
        return faults[number] if number < len(faults) else None


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        with self.server.lock:
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
            self.server.bodies.append(body)
            self.server.headers_seen.append(self.headers.get("Authorization", ""))
        try:
            self._answer(body)
        finally:
            with self.server.lock:
                self.server.running -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        if self.path.endswith("/embeddings"):
            texts = body["input"]
            fault = self.server.fault(texts[0])
            data = [
                {"object": "embedding", "index": i, "embedding": [float(len(t)), 1.0]}
                for i, t in enumerate(texts)
            ]
            said = {"message": f"fault {fault} for {self.headers.get('Authorization', '')}"}
            whole = {"object": "list", "data": data[::-1], "model": "m", "usage": {}}
            self._send(500 if fault else 200, {"error": said} if fault else whole)
            return
        prompt = body["messages"][-1]["content"]
        fault = self.server.fault(prompt)
        if fault == "late-500":
            time.sleep(0.3)
            fault = "500"
        if fault in ("429", "500", "401", "400", "413", "422"):
            headers = {"Retry-After": "0"} if fault == "429" else {}
            auth = self.headers.get("Authorization", "")
            self._send(int(fault), {"error": {"message": f"fault {fault} for {auth}"}}, headers)
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"id": "x", ')
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif fault == "malformed":
            self._send(200, None, raw=b'{"choices": [{"mess')
        elif fault == "no-choices":
            self._send(200, {"id": "x", "object": "chat.completion", "choices": []})
        else:
            time.sleep({"slow": 1.5, "late": 0.3}.get(fault or "", 0))
            text = {"empty": "", "refusal": "I'm sorry, I can't help with that."}.get(
                fault or "", f"Likes films. {len(prompt)}"
            )
            whole = completion(text)
            if fault == "refusal-field":
                whole["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "No."}
            self._send(200, whole)

    def _send(
        self, status: int, content: object, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> None:
        payload = json.dumps(content).encode() if raw is None else raw
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def completion(text: str, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


@contextmanager
def serve(script: dict[str, list[str]] | None = None) -> Iterator[FaultServer]:
    server = FaultServer(script or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
