"""The interface of a writer: requests in, replies out, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from profiles.prompts.kind import Message
from profiles.spec import Decoding, WriterSpec


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes
    ----------
    key : str
        Unique within a job; replies carry it back.
    message : Message
    """

    key: str
    message: Message


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes
    ----------
    text : str
        Answer without the opening; empty when ``error`` is set.
    prompt_tokens, completion_tokens : int
    seconds : float
        Wall time of this call; calls of one batch share the time of the batch.
    finish_reason : str
        ``"stop"``, ``"length"``, or what the endpoint said.
    error : str or None
        Why there is no text; the call may be tried again later.
    complete : bool
        ``text`` begins with its own first words; the opening is not put before it.
    """

    key: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    finish_reason: str
    error: str | None = None
    complete: bool = False


class Backend(ABC):
    """A writer of text.

    Attributes
    ----------
    model, revision : str
        What the store keys answers by; equal values mean equal weights.
    """

    model: str
    revision: str

    def __init__(self, spec: WriterSpec) -> None:
        self.spec = spec
        self.decoding: Decoding = spec.decoding

    @abstractmethod
    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Cut a job into batches.

        The cut depends on all requests of the job and not on what the store already has: in low
        precision the neighbours in a batch can change a text, and a resumed job must write the
        same texts as an uninterrupted one.
        """

    @abstractmethod
    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """Answer batches, in any order; each yield is one commit to the store."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's own tokenizer (an estimate where there is none)."""

    def count_prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Tokens that each call sends, chat markers included where known."""
        return self.count_tokens(["\n".join((m.system, m.user, m.opening)) for m in messages])
