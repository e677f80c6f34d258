"""Many calls to one endpoint at once; what was answered is handed on, however the job ends."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from profiles.llm.base import REFUSED, Reply, Request
from profiles.llm.endpoint import Endpoint
from profiles.spec import ApiSpec, Decoding
from recbole_kd.errors import StoreError

_log = logging.getLogger(__name__)
GIVE_UP_AFTER = 20
# Refused before anything was answered: then it is not this one call.
STOP_AFTER = 3
_LOOK = 0.2


def answer_all(
    spec: ApiSpec,
    requests: Sequence[Request],
    model: str,
    decoding: Decoding,
    tokens: Sequence[int],
    stop: threading.Event | None = None,
    proven: bool = False,
) -> Iterator[list[Reply]]:
    """Answer requests concurrently; yield replies in small groups as they come.

    Parameters
    ----------
    stop : threading.Event, optional
        Set it to begin no call any more: those on their way are still yielded. An interruption sets it.
    proven : bool
        The endpoint has answered such calls before: that it refuses some says nothing about the others.

    Raises
    ------
    SpecError
        The endpoint refuses any call (the key, the model), or refused ``STOP_AFTER`` calls (or all there are)
        and answered none. Else a refused call is a reply with an error.
    StoreError
        ``GIVE_UP_AFTER`` calls in a row failed after all their attempts.
    """
    halt = stop or threading.Event()

    async def replies() -> AsyncIterator[Reply]:
        endpoint = Endpoint(spec)
        judge = _Judge(endpoint, len(requests), proven)
        waiting = iter(zip(requests, tokens, strict=True))
        running: set[asyncio.Task[Reply]] = set()
        try:
            while judge.error is None and not halt.is_set():
                # Twice the slots: the next calls stand ready, and 1e6 requests make no 1e6 tasks.
                while (
                    not judge.doubts and len(running) < 2 * spec.concurrency and (item := next(waiting, None))
                ):
                    request, count = item
                    call = endpoint.chat(request.key, request.message, model, decoding, count)
                    running.add(asyncio.create_task(call))
                if not running:
                    break
                done, running = await asyncio.wait(
                    running, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED
                )
                for reply in judge.read(done):
                    yield reply
            for reply in [*judge.read(await endpoint.finish(running)), *judge.left()]:
                yield reply
            if judge.error is not None:
                raise judge.error
            if judge.doubts and not halt.is_set():
                raise judge.blame()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await endpoint.close()

    yield from _grouped(replies, halt)


class _Judge:
    """Tells a call that failed from an endpoint that does.

    Attributes
    ----------
    error : BaseException or None
        Why the job stops.
    """

    def __init__(self, endpoint: Endpoint, calls: int, proven: bool) -> None:
        self.error: BaseException | None = None
        self._endpoint = endpoint
        self._patience = min(STOP_AFTER, calls)
        self._answered = proven
        self._refused: list[Reply] = []
        self._failures = 0

    def read(self, done: Iterable[asyncio.Task[Reply]]) -> list[Reply]:
        """Replies to hand on: refused ones not before something was answered."""
        ready: list[Reply] = []
        for task in done:
            error = task.exception()
            if error is not None:
                self.error = self.error or error
                continue
            reply = task.result()
            failed = reply.error is not None and reply.finish_reason == "error"
            self._failures = self._failures + 1 if failed else 0
            if reply.finish_reason == REFUSED and not self._answered:
                self._refused.append(reply)
                continue
            if not failed and not self._answered:
                self._answered = True
                ready += self._refused
            ready.append(reply)
        if self._failures >= GIVE_UP_AFTER and self.error is None:
            self.error = StoreError(
                f"endpoint failed {self._failures} calls in a row; what was answered is stored, run the "
                "same command again when it is back"
            )
        return ready

    @property
    def doubts(self) -> bool:
        """Whether all was refused so far. A refusal takes no time, an answer does: wait for those running."""
        return not self._answered and len(self._refused) >= self._patience

    def left(self) -> list[Reply]:
        """Refused replies of a job that ended before anything was answered."""
        return [] if self._answered or self.doubts or self.error is not None else self._refused

    def blame(self) -> BaseException:
        """The error of a job of which nothing but refusals came."""
        return self._endpoint.blame(self._refused[0].error)


_Box = queue.SimpleQueue["Reply | BaseException | None"]


def _grouped(
    replies: Callable[[], AsyncIterator[Reply]], stop: threading.Event, most: int = 32
) -> Iterator[list[Reply]]:
    """Run an asynchronous iterator in a thread; yield what has come since the last look."""
    box: _Box = queue.SimpleQueue()

    async def pump() -> None:
        async for reply in replies():
            box.put(reply)

    def run() -> None:
        try:
            asyncio.run(pump())
            box.put(None)
        except BaseException as error:
            box.put(error)

    thread = threading.Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    try:
        ended: BaseException | bool | None = False
        interrupt: KeyboardInterrupt | None = None
        while ended is False:
            group: list[Reply] = []
            try:
                ended = _take(box, group, most)
            except KeyboardInterrupt as error:
                if stop.is_set():
                    raise
                interrupt = error
                stop.set()
                _log.warning("stopping when the running calls are answered; interrupt again to lose them")
            if group:
                yield group
        if interrupt is not None:
            raise interrupt
        if isinstance(ended, BaseException):
            raise ended
    finally:
        stop.set()
        thread.join(timeout=5)


def _take(box: _Box, group: list[Reply], most: int) -> BaseException | bool | None:
    """Wait for a reply and take what else has come; ``False`` while there may be more."""
    item = box.get()
    while isinstance(item, Reply):
        group.append(item)
        if len(group) == most or box.empty():
            return False
        item = box.get()
    return item
