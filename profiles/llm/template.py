"""The no-LLM writer: the rendered opening is the profile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from profiles.llm.base import Backend, Reply, Request
from profiles.spec import WriterSpec

BATCH = 1024


class TemplateBackend(Backend):
    """Answers every request with nothing: the prompt's opening is already the whole text."""

    def __init__(self, spec: WriterSpec) -> None:
        super().__init__(spec)
        self.model, self.revision = "template", "-"

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Cut into even batches."""
        return [list(requests[i : i + BATCH]) for i in range(0, len(requests), BATCH)]

    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """Yield empty answers."""
        for batch in batches:
            yield [Reply(r.key, "", 0, 0, 0.0, "template") for r in batch]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Nothing is sent anywhere."""
        return [0] * len(texts)
