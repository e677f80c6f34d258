"""Writers of text that need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from profiles.llm.base import Backend, Reply, Request
from profiles.prompts.kind import Message
from profiles.spec import WriterSpec


class EchoBackend(Backend):
    """Answers by a function of the message, in batches of two; counts words as tokens."""

    def __init__(self, spec: WriterSpec, answer: Callable[[Message], str] | None = None) -> None:
        super().__init__(spec)
        self.model, self.revision = "echo", "1"
        self.answer = answer or (lambda message: f"profile {message.digest}.")
        self.asked: list[Message] = []
        self.die_after: int | None = None

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        ordered = sorted(requests, key=lambda r: r.key)
        return [ordered[i : i + 2] for i in range(0, len(ordered), 2)]

    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        for batch in batches:
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            self.asked += [r.message for r in batch]
            yield [
                Reply(
                    r.key, self.answer(r.message), len(r.message.user.split()), 3, 0.5, "stop", complete=True
                )
                for r in batch
            ]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]
