"""Write profiles: histories through a prompt and a back-end into the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from profiles.content import decoding_digest
from profiles.facts import Facts, Statistician
from profiles.history import UserHistory
from profiles.items import Catalogue
from profiles.llm import BACKENDS, Backend, Reply, Request
from profiles.llm.base import write_and_keep
from profiles.parse import UnusableAnswerError, parse_answer
from profiles.progress import Progress, tracked
from profiles.prompts import Prompt, domain_for, load_domain, load_prompt
from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from profiles.store import Call, Profile, Store, Writer
from profiles.strategies import STRATEGIES, Conversation, Job

Price = Callable[[int, int], float | None]


@dataclass
class Outcome:
    """What a writing job did.

    Attributes
    ----------
    profiles : list of Profile
    failed : dict of str to str
        User token -> why there is no profile; a later run tries again.
    answered, reused : int
        Calls made and calls found in the store.
    """

    profiles: list[Profile] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    answered: int = 0
    reused: int = 0


class Author:
    """Everything needed to turn histories into messages.

    Parameters
    ----------
    spec : WriterSpec
    texts : mapping
        Item token -> field -> raw text.
    histories : sequence of UserHistory
        All users' histories (means are taken over them).
    domain : str, optional
        Used when the spec names none; else guessed from the text fields.
    backend : Backend, optional
        Made from the spec when missing.
    """

    def __init__(
        self,
        spec: WriterSpec,
        texts: Mapping[str, Mapping[str, str]],
        histories: Sequence[UserHistory],
        domain: str | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.spec = spec
        chosen = spec.domain or domain
        fields = list(next(iter(texts.values()), {}))
        self.prompt: Prompt = load_prompt(spec.prompt, load_domain(chosen) if chosen else domain_for(fields))
        self.catalogue = Catalogue(texts, self.prompt.domain)
        self.statistician = Statistician(self.catalogue, histories)
        self.backend = backend or BACKENDS[spec.backend](spec)
        self._has = {role: name is not None for role, name in self.catalogue.roles.items()}

    @property
    def writer(self) -> Writer:
        """Key of everything that this author writes."""
        return Writer(
            model=self.backend.model,
            revision=self.backend.revision,
            decoding=decoding_digest(self.spec) if self.prompt.needs_llm else "-",
            prompt=self.prompt.version,
            strategy=_strategy_name(self.spec),
        )

    def context(
        self, history: UserHistory, positions: list[int], facts: Facts | None = None
    ) -> dict[str, Any]:
        """What a prompt may use: facts of the whole history, and the items at ``positions``."""
        has = self._has | {"ratings": history.ratings is not None}
        return {
            "f": facts or self.statistician.facts(history),
            "has": has,
            "items": [item_line(self.catalogue, history, p) for p in positions],
        }

    def job(self, history: UserHistory) -> Job:
        """One user's work order."""
        facts = self.statistician.facts(history)
        return Job(
            history,
            self.prompt,
            self.spec.history,
            lambda positions: self.context(history, positions, facts),
            self.backend.count_prompt_tokens,
        )


def item_line(catalogue: Catalogue, history: UserHistory, position: int) -> str:
    """One item as a delimited line, e.g. ``"Toy Story" | animation, comedy | 1995 | rated 4``."""
    item = catalogue[history.items[position]]
    parts = ['"' + item.title.replace('"', "'") + '"']
    if item.categories:
        parts.append(", ".join(item.categories[:5]))
    parts += [item.maker] if item.maker else []
    parts += [str(item.year)] if item.year else []
    if history.ratings is not None:
        parts.append(f"rated {history.ratings[position]:g}")
    return " | ".join(parts)


@dataclass(frozen=True)
class _Share:
    """Progress within a round, told in users."""

    tell: Progress | None
    finished: int
    total: int

    def __call__(self, share: float) -> None:
        if self.tell:
            self.tell(self.finished + int(share * (self.total - self.finished)), self.total)


@dataclass
class _Talk:
    """A user's conversation in progress."""

    history: UserHistory
    turns: Conversation
    waiting: list[Message]
    first: tuple[str, ...]
    used: list[list[Call]]


def write_profiles(
    author: Author,
    histories: Sequence[UserHistory],
    store: Store,
    dataset: str,
    progress: Progress | None = None,
    price: Price = lambda prompt, completion: None,
    prepare: Progress | None = None,
) -> Outcome:
    """Write the profiles of ``histories``; what the store has is not asked again.

    Parameters
    ----------
    progress : callable, optional
        ``progress(done, total)`` in users, after every batch.
    price : callable
        ``price(prompt_tokens, completion_tokens)`` in US dollars.
    prepare : callable, optional
        ``prepare(done, total)`` in users while the first prompts are made.
    """
    outcome = Outcome()
    strategy = STRATEGIES[author.spec.history.strategy]
    talks = []
    for history in tracked(histories, prepare, len(histories)):
        turns = strategy(author.job(history))
        first = next(turns)
        talks.append(_Talk(history, turns, first, tuple(m.digest for m in first), [[] for _ in first]))
    total = len(talks)
    while talks:
        finished = total - len(talks)
        answers = _round(author, talks, store, outcome, price, _Share(progress, finished, total))
        talks = _advance(author, talks, answers, store, dataset, outcome)
    if progress:
        progress(total, total)
    order = {history.user: i for i, history in enumerate(histories)}
    outcome.profiles.sort(key=lambda p: (order[p.user], p.profile))
    return outcome


def _round(
    author: Author,
    talks: Sequence[_Talk],
    store: Store,
    outcome: Outcome,
    price: Price,
    progress: _Share,
) -> dict[str, Call | str]:
    """Answer every waiting message; a string says why there is no answer."""
    writer = author.writer
    messages = {m.digest: m for talk in talks for m in talk.waiting}
    answers: dict[str, Call | str] = dict(store.calls(writer, messages)) if author.prompt.needs_llm else {}
    outcome.reused += len(answers)
    author.backend.proven |= bool(answers)
    if len(answers) == len(messages):
        return answers
    requests = [Request(key, message) for key, message in messages.items()]
    batches = author.backend.plan(requests)
    missing = [batch for batch in batches if any(r.key not in answers for r in batch)]
    done = len(requests) - sum(map(len, missing))

    accepted: dict[str, Call | str] = {}

    def keep(replies: list[Reply]) -> None:
        for reply in replies:
            # Priced once, though a failing store is tried again.
            if reply.key not in accepted:
                accepted[reply.key] = _accept(author, messages[reply.key], reply, price)
        new = {reply.key: accepted[reply.key] for reply in replies if reply.key not in answers}
        fresh = [call for call in new.values() if isinstance(call, Call)]
        if author.prompt.needs_llm:
            store.add_calls(writer, fresh)
        answers.update(new)
        outcome.answered += len(fresh)
        author.backend.proven |= bool(fresh)

    def tell(replies: list[Reply]) -> None:
        nonlocal done
        done += len(replies)
        progress(done / len(requests))

    write_and_keep(author.backend, missing, keep, tell)
    return answers


def _accept(author: Author, message: Message, reply: Reply, price: Price) -> Call | str:
    # An answer of no use is billed as well.
    cost = price(reply.prompt_tokens, reply.completion_tokens)
    if reply.error:
        return reply.error
    kind = author.prompt.kind
    try:
        text = (
            parse_answer(
                "" if reply.complete else message.opening,
                reply.text,
                sentences=kind.sentences,
                cut_off=reply.finish_reason == "length",
            )
            if author.prompt.needs_llm
            else " ".join(message.opening.split())
        )
    except UnusableAnswerError as error:
        return str(error)
    return Call(
        message.digest,
        text,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.seconds,
        cost,
        reply.finish_reason,
    )


def accept_replies(
    author: Author,
    store: Store,
    requests: Sequence[Request],
    replies: Sequence[Reply],
    price: Price,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Store replies that came by another way (batch files); return those that are no use, and why."""
    messages = {request.key: request.message for request in requests}
    each = tracked(replies, progress, len(replies))
    accepted = {reply.key: _accept(author, messages[reply.key], reply, price) for reply in each}
    store.add_calls(author.writer, [call for call in accepted.values() if isinstance(call, Call)])
    return {key: reason for key, reason in accepted.items() if isinstance(reason, str)}


def _advance(
    author: Author,
    talks: Sequence[_Talk],
    answers: Mapping[str, Call | str],
    store: Store,
    dataset: str,
    outcome: Outcome,
) -> list[_Talk]:
    """Hand answers to the conversations; return those that ask on."""
    going, finished = [], []
    for talk in talks:
        got = [answers.get(m.digest, "no answer") for m in talk.waiting]
        reason = next((g for g in got if isinstance(g, str)), None)
        if reason is not None:
            outcome.failed[talk.history.user] = reason
            continue
        calls = [g for g in got if isinstance(g, Call)]
        for used, call in zip(talk.used, calls, strict=True):
            used.append(call)
        try:
            talk.waiting = talk.turns.send([call.text for call in calls])
            going.append(talk)
        except StopIteration as stop:
            finished += _records(author.writer, talk, list(stop.value), dataset)
    store.add_profiles(finished)
    outcome.profiles += finished
    return going


def _records(writer: Writer, talk: _Talk, texts: list[str], dataset: str) -> list[Profile]:
    records = []
    for index, (text, calls) in enumerate(zip(texts, talk.used, strict=True)):
        prices = [call.price for call in calls if call.price is not None]
        records.append(
            Profile(
                dataset=dataset,
                user=talk.history.user,
                profile=index,
                history_last=talk.history.last,
                history_hash=talk.history.hash,
                model=writer.model,
                revision=writer.revision,
                decoding=writer.decoding,
                prompt=writer.prompt,
                strategy=writer.strategy,
                input=talk.first[index],
                text=text,
                calls=len(calls),
                prompt_tokens=sum(call.prompt_tokens for call in calls),
                completion_tokens=sum(call.completion_tokens for call in calls),
                seconds=sum(call.seconds for call in calls),
                price=sum(prices) if prices else None,
                finish_reason=calls[-1].finish_reason,
            )
        )
    return records


def _strategy_name(spec: WriterSpec) -> str:
    history = spec.history
    parts = [history.strategy]
    parts += [f"items={history.max_items}"] if history.max_items else []
    parts += [f"tokens={history.max_tokens}"] if history.max_tokens else []
    parts += [f"seed={history.seed}"] if history.strategy == "sampled" else []
    return " ".join(parts)
