"""A language model behind an OpenAI-compatible endpoint, with nothing but http.server and transformers.

``python -m tests.local_server FOLDER PORT``: stands in for ``transformers serve`` where fastapi and uvicorn
are missing.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any

from tests.json_server import JsonHandler


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


class _Handler(JsonHandler):
    local: LocalModel

    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.body()
        if not self.path.endswith("/chat/completions"):
            self.answer(404, {"error": {"message": f"no {self.path}"}})
            return
        text, ended, read, written = self.local.answer(body)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        whole = {"id": "local", "object": "chat.completion", "created": int(time.time())}
        choice = {"index": 0, "message": message, "finish_reason": ended}
        self.answer(200, whole | {"model": body["model"], "choices": [choice], "usage": usage})


if __name__ == "__main__":
    _Handler.local = LocalModel(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler).serve_forever()
