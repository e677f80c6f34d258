"""Any OpenAI-compatible endpoint: the provider's own, vLLM, TGI, llama.cpp, Ollama, transformers serve."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from profiles.llm.base import Backend, Reply, Request
from profiles.spec import ApiSpec, WriterSpec
from recbole_kd.errors import SpecError


class OpenAIBackend(Backend):
    """Chat completions, many at a time.

    Attributes
    ----------
    revision : str
        As the spec states it; an endpoint does not tell its weights. Name two different
        deployments of one model name by two revisions.
    """

    def __init__(self, spec: WriterSpec) -> None:
        super().__init__(spec)
        if spec.api is None or not spec.model:
            raise SpecError("writer: back-end openai needs 'model' and the section 'api'")
        self.api: ApiSpec = spec.api
        self.model, self.revision = spec.model, spec.revision or "-"
        self._tokenizer: Any = None
        self._stop = threading.Event()

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """One call each: a resumed job buys nothing twice."""
        return [[request] for request in requests]

    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """Answer all calls concurrently."""
        from profiles.llm.crowd import answer_all

        requests = [request for batch in batches for request in batch]
        tokens = [
            n + self.decoding.max_new_tokens for n in self.count_prompt_tokens([r.message for r in requests])
        ]
        self._stop = threading.Event()
        yield from answer_all(self.api, requests, self.model, self.decoding, tokens, self._stop, self.proven)

    def rest(self, groups: Iterator[list[Reply]]) -> Iterator[list[Reply]]:
        """Begin no call any more; those on their way are awaited."""
        self._stop.set()
        return groups

    @property
    def counts_exactly(self) -> bool:
        """Whether a tokenizer is named."""
        return self.api.tokenizer is not None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens by ``api.tokenizer``, or four characters each."""
        if self.api.tokenizer is None:
            return [len(text) // 4 + 1 for text in texts]
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.api.tokenizer)
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer from a folder, the hub or a GGUF file."""
    from transformers import AutoTokenizer

    from profiles.llm.sources import from_gguf, locate, weights_digest

    source = locate(name)
    if isinstance(source, Path) and source.suffix == ".gguf":
        source = from_gguf(source, weights_digest(source))
    return AutoTokenizer.from_pretrained(str(source))
