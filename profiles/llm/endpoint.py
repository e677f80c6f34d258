"""One OpenAI-compatible endpoint: bounded, limited, retried; its key appears nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from profiles.llm.base import Reply, Request
from profiles.llm.limits import MinuteLimit
from profiles.progress import Progress
from profiles.prompts.kind import Message
from profiles.spec import ApiSpec, Decoding
from recbole_kd.errors import SpecError, StoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)
MAX_BACKOFF = 60.0
GIVE_UP_AFTER = 20


class TransientError(Exception):
    """Worth another attempt; ``retry_after`` in seconds when the endpoint said so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Endpoint:
    """Calls to one endpoint.

    Parameters
    ----------
    spec : ApiSpec
    first_wait : float
        Seconds before the second attempt; doubled each time, with jitter.

    Raises
    ------
    SpecError
        The ``openai`` package or the key is missing, or the key cannot be sent.
    """

    def __init__(self, spec: ApiSpec, first_wait: float = 1.0) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise SpecError(
                "back-end openai needs the openai client; pip install 'recbole-kd[api]'"
            ) from error
        key = _key_in(spec.key_variable)
        if not key and spec.base_url is None:
            raise SpecError(
                f"api.key_variable: environment variable {spec.key_variable} is empty; export your key in it"
            )
        self.spec = spec
        self._key = key
        self._first_wait = first_wait
        # Retries are ours: the client's own know neither our limits nor our log.
        self._client = AsyncOpenAI(
            api_key=key or "none", base_url=spec.base_url, timeout=spec.timeout, max_retries=0
        )
        self._requests = MinuteLimit(spec.requests_per_minute)
        self._tokens = MinuteLimit(spec.tokens_per_minute)
        self._slots = asyncio.Semaphore(spec.concurrency)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    def redact(self, text: object, most: int = 300) -> str:
        """One line of at most ``most`` characters without the key."""
        line = " ".join(str(text).split())
        # Before the cut: half a key is no longer found.
        return (line.replace(self._key, "[key]") if self._key else line)[:most]

    async def chat(self, key: str, message: Message, model: str, decoding: Decoding, tokens: int) -> Reply:
        """Answer one message; ``tokens`` is what it will spend at most, for the limit."""
        started = time.perf_counter()

        async def once() -> Reply:
            answer = await self._client.chat.completions.create(
                **body(message, model, decoding), extra_body=self.spec.extra_body
            )
            return read_answer(key, message, answer, time.perf_counter() - started, tokens)

        try:
            return await self._patiently(once, tokens)
        except TransientError as error:
            return Reply(key, "", 0, 0, time.perf_counter() - started, "error", error=self.redact(error))

    async def embed(self, texts: list[str], model: str, dimension: int | None) -> list[list[float]]:
        """Embed texts, in order."""

        async def once() -> list[list[float]]:
            options: dict[str, Any] = {"dimensions": dimension} if dimension else {}
            answer = await self._client.embeddings.create(
                model=model, input=texts, encoding_format="float", **options
            )
            data = sorted(answer.data or [], key=lambda item: item.index)
            if len(data) != len(texts):
                raise TransientError(f"{len(data)} vectors for {len(texts)} texts")
            return [list(item.embedding) for item in data]

        try:
            return await self._patiently(once, sum(map(len, texts)) // 4)
        except TransientError as error:
            raise StoreError(
                f"embeddings endpoint gave no answer ({self.redact(error)}); run the command again"
            ) from None  # what the endpoint echoed stays out of the traceback

    async def _patiently(self, once: Callable[[], Awaitable[T]], tokens: int) -> T:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.spec.attempts),
            wait=self._pause,
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        ):
            with attempt:
                await self._requests.take()
                await self._tokens.take(tokens)
                async with self._slots:
                    return await self._sorted_errors(once)
        raise AssertionError("tenacity re-raises")

    def _pause(self, state: Any) -> float:
        import random

        error = state.outcome.exception()
        backoff = min(self._first_wait * 2 ** (state.attempt_number - 1), MAX_BACKOFF) * random.uniform(
            0.75, 1.25
        )
        wait = max(backoff, getattr(error, "retry_after", None) or 0.0)
        _log.info("attempt %d: %s; again in %.1f s", state.attempt_number, self.redact(error), wait)
        return float(wait)

    async def _sorted_errors(self, once: Callable[[], Awaitable[T]]) -> T:
        """Tell what may pass (try again) from what will not (stop the job)."""
        import openai

        try:
            return await once()
        except openai.APITimeoutError as error:
            raise TransientError(f"no answer within {self.spec.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise TransientError(f"connection failed ({error.__cause__ or error})") from error
        except openai.APIStatusError as error:
            status = error.status_code
            if status in (408, 409, 425, 429) or status >= 500:
                raise TransientError(f"status {status}", _retry_after(error.response.headers)) from error
            raise SpecError(
                f"endpoint refused the call with status {status} ({self.redact(_reason(error), 160)}); check "
                f"writer.model, api.base_url and the key in {self.spec.key_variable}"
            ) from None
        except (
            openai.APIResponseValidationError,
            ValueError,
            AttributeError,
            TypeError,
            IndexError,
        ) as error:
            raise TransientError(f"malformed answer ({type(error).__name__})") from error


def body(message: Message, model: str, decoding: Decoding) -> dict[str, Any]:
    """Request body of a chat call, as the API and its batch files take it.

    Chat APIs cannot be given the first words of the answer, so they are asked for.
    """
    chat = message.chat()
    if message.opening:
        chat[-1] = chat[-1] | {
            "content": chat[-1]["content"] + f'\n\nBegin the answer with: "{message.opening}"'
        }
    return {
        "model": model,
        "messages": chat,
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": decoding.seed,
    }


def read_answer(key: str, message: Message, answer: Any, seconds: float, tokens: int) -> Reply:
    """Turn the client's answer object into a reply.

    Raises
    ------
    TransientError
        There is no choice in it.
    """
    choices = getattr(answer, "choices", None)
    if not choices:
        raise TransientError("answer without choices")
    text = choices[0].message.content or ""
    if getattr(choices[0].message, "refusal", None) and not text:
        return Reply(key, "", 0, 0, seconds, "refusal", error="refusal")
    usage = getattr(answer, "usage", None)
    prompt = int(getattr(usage, "prompt_tokens", 0) or tokens)
    completion = int(getattr(usage, "completion_tokens", 0) or len(text) // 4)
    return Reply(
        key, text, prompt, completion, seconds, str(choices[0].finish_reason or "stop"), complete=True
    )


def answer_all(
    spec: ApiSpec, requests: Sequence[Request], model: str, decoding: Decoding, tokens: Sequence[int]
) -> Iterator[list[Reply]]:
    """Answer requests concurrently; yield replies in small groups as they come.

    Raises
    ------
    SpecError
        The endpoint refused a call for good.
    StoreError
        ``GIVE_UP_AFTER`` calls in a row failed after all their attempts.
    """

    async def replies() -> AsyncIterator[Reply]:
        endpoint = Endpoint(spec)
        waiting = iter(zip(requests, tokens, strict=True))
        running: set[asyncio.Task[Reply]] = set()
        failures = 0
        try:
            while True:
                # Twice the slots: the next calls stand ready, and 1e6 requests make no 1e6 tasks.
                while len(running) < 2 * spec.concurrency and (item := next(waiting, None)):
                    request, count = item
                    call = endpoint.chat(request.key, request.message, model, decoding, count)
                    running.add(asyncio.create_task(call))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    reply = task.result()
                    failures = failures + 1 if reply.error and reply.finish_reason == "error" else 0
                    yield reply
                if failures >= GIVE_UP_AFTER:
                    raise StoreError(
                        f"endpoint failed {failures} calls in a row; what was answered is stored, run the "
                        "same command again when it is back"
                    )
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await endpoint.close()

    yield from _grouped(replies)


def embed(
    spec: ApiSpec,
    model: str,
    batches: Sequence[list[str]],
    dimension: int | None,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Embed batches of texts concurrently; vectors in order, ``progress(done, total)`` in texts."""
    done, total = 0, sum(map(len, batches))

    async def everything() -> list[list[float]]:
        endpoint = Endpoint(spec)

        async def one(batch: list[str]) -> list[list[float]]:
            nonlocal done
            vectors = await endpoint.embed(batch, model, dimension)
            done += len(batch)
            if progress:
                progress(done, total)
            return vectors

        try:
            parts = await asyncio.gather(*map(one, batches))
        finally:
            await endpoint.close()
        return [vector for part in parts for vector in part]

    return asyncio.run(everything())


def _grouped(replies: Callable[[], AsyncIterator[Reply]], most: int = 32) -> Iterator[list[Reply]]:
    """Run an asynchronous iterator in a thread; yield what has come since the last look."""
    box: queue.SimpleQueue[Reply | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    async def pump() -> None:
        stream = replies()
        try:
            async for reply in stream:
                box.put(reply)
                if stop.is_set():
                    break
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

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
        while ended is False:
            group: list[Reply] = []
            item = box.get()
            while isinstance(item, Reply) and len(group) < most - 1 and not box.empty():
                group.append(item)
                item = box.get()
            if isinstance(item, Reply):
                group.append(item)
            else:
                ended = item
            if group:
                yield group
        if isinstance(ended, BaseException):
            raise ended
    finally:
        stop.set()
        thread.join(timeout=5)


def _retry_after(headers: Any) -> float | None:
    try:
        return min(float(headers.get("retry-after", "")), 600.0)
    except ValueError:
        return None


def _reason(error: Any) -> str:
    """Message of the endpoint, if its body has one; bodies can echo headers, so nothing else is shown."""
    content = error.body if isinstance(error.body, dict) else {}
    inner = content.get("error", content)
    return str(inner.get("message", "no reason given") if isinstance(inner, dict) else inner)


def _key_in(variable: str) -> str:
    """The key, without the blanks and line ends that a file of settings leaves around it.

    Raises
    ------
    SpecError
        No HTTP header can carry it; the client would say so and show it.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise SpecError(
            f"api.key_variable: the key in {variable} holds a blank, a control character or a letter that is "
            "not ASCII; export it anew"
        )
    return key
