"""The interface of a writer: requests in, replies out, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from profiles.prompts.kind import Message
from profiles.spec import Decoding, WriterSpec

# How a call ends that the model, or the endpoint, will not answer however often it is asked.
REFUSAL, REFUSED = "refusal", "refused"


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
        Wall time of this call; calls of one batch share the time of the batch. Of an endpoint: of the attempt
        that was answered (or the last one), without waits for limits, slots and other attempts.
    finish_reason : str
        ``"stop"``, ``"length"``, ``"error"``, ``REFUSAL``, ``REFUSED``, or what the endpoint said.
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
    proven : bool
        It has answered calls before: a refusal is then a matter of one call.
    """

    proven: bool = False

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

    def rest(self, groups: Iterator[list[Reply]]) -> Iterator[list[Reply]]:
        """What is answered, or about to be, when a job stops early; nothing new is begun.

        Parameters
        ----------
        groups : iterator
            As ``write`` made it.
        """
        return iter(())

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's own tokenizer (an estimate where there is none)."""

    def count_prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Tokens that each call sends, chat markers included where known."""
        return self.count_tokens(["\n".join((m.system, m.user, m.opening)) for m in messages])


def write_and_keep(
    backend: Backend,
    batches: Iterable[Sequence[Request]],
    keep: Callable[[list[Reply]], None],
    tell: Callable[[list[Reply]], None],
) -> None:
    """Hand every group of replies to ``keep`` and then to ``tell``.

    Answers are paid for: when either fails or is interrupted, those that are here, or on their way, are kept
    before the error goes on.
    """
    groups = backend.write(batches)
    unkept: list[Reply] = []
    try:
        for replies in groups:
            unkept = replies
            keep(replies)
            unkept = []
            tell(replies)
    except BaseException:
        with suppress(Exception):
            for replies in chain([unkept], backend.rest(groups)):
                keep(replies)
        raise
