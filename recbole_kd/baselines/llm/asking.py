"""Asking a language model about many users at once: bought once, resumed, priced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from profiles.content import decoding_digest
from profiles.llm.base import REFUSAL, REFUSED, Backend, Reply, Request, write_and_keep
from profiles.prices import price_function
from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from profiles.store import Call, Store, Writer
from profiles.write import Price
from recbole_kd.baselines.llm.base import Context, Usage
from recbole_kd.errors import SpecError, StoreError

# Weights on this machine have no price per token.
_FREE = ("local",)


def writer_of(backend: Backend, llm: WriterSpec, prompt: str) -> Writer:
    """The key that answers are kept under: model, weights, decoding. The rest is for the reader."""
    return Writer(backend.model, backend.revision, decoding_digest(llm), prompt, "ranking")


def ask(context: Context, messages: Sequence[Message], prompt: str) -> dict[str, Call]:
    """Answer every message; what the store has is not asked again, whatever its answer was worth.

    Batches are planned over all messages, not over what is missing: in low precision the neighbours in a
    batch can change a word. Every batch is committed when it is answered: a kill loses what was in flight.

    Returns
    -------
    dict of str to Call
        By ``Message.digest``.

    Raises
    ------
    StoreError
        Some calls had no answer after all attempts; the others are stored.
    """
    llm, backend = context.llm, context.backend
    assert llm is not None
    wanted = {message.digest: message for message in messages}
    requests = [Request(key, message) for key, message in wanted.items()]
    price = price_function(backend.model)
    free = llm.backend in _FREE
    failed: dict[str, str] = {}
    with Store(context.store) as store:
        writer = writer_of(backend, llm, prompt)
        answers = store.calls(writer, wanted)
        backend.proven |= bool(answers)
        if len(answers) < len(wanted):
            batches = backend.plan(requests)
            missing = [batch for batch in batches if any(r.key not in answers for r in batch)]
            total, done = len(requests), len(requests) - sum(map(len, missing))

            def keep(replies: list[Reply]) -> None:
                nonlocal failed, answers
                fresh = [r for r in replies if r.key not in answers]
                failed |= {r.key: str(r.error) for r in fresh if _unanswered(r)}
                calls = [_call(wanted[r.key], r, price, free) for r in fresh if not _unanswered(r)]
                store.add_calls(writer, calls)
                answers |= {call.message: call for call in calls}

            def tell(replies: list[Reply]) -> None:
                nonlocal done
                done += len(replies)
                context.progress(done, total)

            write_and_keep(backend, missing, keep, tell)
    if failed:
        raise StoreError(
            f"{len(failed)} of {len(wanted)} calls to {backend.model} had no answer "
            f"({next(iter(failed.values()))}); the others are stored, run the same command again"
        )
    return answers


def _unanswered(reply: Reply) -> bool:
    """A refusal is an answer, of no use; a call that failed is none."""
    return reply.error is not None and reply.finish_reason not in (REFUSAL, REFUSED)


def _call(message: Message, reply: Reply, price: Price, free: bool) -> Call:
    text = reply.text if reply.complete else message.opening + reply.text
    cost = 0.0 if free else price(reply.prompt_tokens, reply.completion_tokens)
    return Call(
        message.digest,
        text,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.seconds,
        cost,
        reply.finish_reason,
    )


def usage_of(answers: Mapping[str, Call], asked: Sequence[Iterable[str]]) -> Usage:
    """What every user's answers took, whenever they were bought.

    Parameters
    ----------
    asked : sequence of iterable of str
        Message digests of every user; a message asked twice is paid once.
    """
    usage = Usage.zeros(len(asked))
    for row, digests in enumerate(asked):
        for call in (answers[key] for key in dict.fromkeys(digests)):
            usage.calls[row] += 1
            usage.prompt_tokens[row] += call.prompt_tokens
            usage.completion_tokens[row] += call.completion_tokens
            usage.seconds[row] += call.seconds
            usage.usd[row] += np.nan if call.price is None else call.price
    return usage


def check_backend(llm: WriterSpec | None, local: bool = False) -> WriterSpec:
    """Refuse a model that cannot be asked in the loop.

    Parameters
    ----------
    local : bool
        The ranker reads logits, which only a model on this machine gives.

    Raises
    ------
    SpecError
    """
    if llm is None:
        raise SpecError("llm: name a model, e.g. llm: {profile: smollm2}")
    if llm.backend in ("template", "batch-file"):
        raise SpecError(f"llm.backend '{llm.backend}' answers no question in the loop; use local or openai")
    if local and llm.backend != "local":
        raise SpecError(f"llm.backend '{llm.backend}' gives no logits; this ranker needs backend: local")
    return llm
