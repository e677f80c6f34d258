"""A double of a language model behind a real OpenAI-compatible endpoint; standard library only.

``python -m tests.baselines.llm.answering PORT LOG PAUSE`` is the same as a process of its own, which can be
killed: it answers with the candidates in the order shown and appends every prompt that it answers to LOG.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from tests.json_server import JsonHandler

Answer = Callable[[str], str]


class AnsweringServer(ThreadingHTTPServer):
    """Answers every chat call by a function of its last message.

    Attributes
    ----------
    asked : Counter
        Prompt -> calls that were answered.
    dies_after : int or None
        So many answers, then every call is met with status 503.
    """

    daemon_threads = True

    def __init__(
        self, answer: Answer, pause: float = 0.0, dies_after: int | None = None, port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer, self.pause, self.dies_after = answer, pause, dies_after
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(JsonHandler):
    server: AnsweringServer

    def do_POST(self) -> None:
        body = self.body()
        prompt = body["messages"][-1]["content"]
        time.sleep(self.server.pause)
        with self.server.lock:
            dead = self.server.dies_after is not None and self.server.asked.total() >= self.server.dies_after
            if not dead:
                self.server.asked[prompt] += 1
        text = "" if dead else self.server.answer(prompt)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        self.answer(503 if dead else 200, whole | {"choices": [choice], "usage": usage})


@contextmanager
def answering(answer: Answer, **options: Any) -> Iterator[AnsweringServer]:
    """A server in a thread of this process."""
    server = AnsweringServer(answer, **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def shown(prompt: str) -> list[str]:
    """Candidate titles of a ranking prompt, in order."""
    return re.findall(r"\d+\. (Title \d+)", prompt.split("<candidates>")[1])


if __name__ == "__main__":
    with open(sys.argv[2], "a", buffering=1) as log:

        def logged(prompt: str) -> str:
            log.write(json.dumps(prompt) + "\n")
            return "\n".join(shown(prompt))

        AnsweringServer(logged, float(sys.argv[3]), port=int(sys.argv[1])).serve_forever()
