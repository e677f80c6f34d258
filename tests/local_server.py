"""A language model behind an OpenAI-compatible endpoint, with nothing but http.server and transformers.

``python local_server.py FOLDER PORT``: stands in for ``transformers serve`` where fastapi and uvicorn are
missing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalModel:
    """Answers chat messages; one request at a time."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.torch, self.lock = torch, threading.Lock()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, body: dict[str, Any]) -> tuple[str, str, int, int]:
        """Text, why it ended, tokens of the prompt and of the answer."""
        prompt = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or 64)
        temperature = float(body.get("temperature") or 0.0)
        how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with self.lock, self.torch.inference_mode():
            self.torch.manual_seed(int(body.get("seed") or 0))
            out = self.model.generate(
                **ids, max_new_tokens=limit, pad_token_id=self.tokenizer.eos_token_id, **how
            )
        new = out[0, ids["input_ids"].shape[1] :]
        ended = "stop" if int(new[-1]) == self.tokenizer.eos_token_id else "length"
        text = str(self.tokenizer.decode(new, skip_special_tokens=True))
        return text, ended, ids["input_ids"].shape[1], len(new)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    local: LocalModel

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        self._send(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            self._send(404, {"error": {"message": f"no {self.path}"}})
            return
        text, ended, read, written = self.local.answer(body)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        whole = {"id": "local", "object": "chat.completion", "created": int(time.time())}
        choice = {"index": 0, "message": message, "finish_reason": ended}
        self._send(200, whole | {"model": body["model"], "choices": [choice], "usage": usage})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


if __name__ == "__main__":
    _Handler.local = LocalModel(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler).serve_forever()
