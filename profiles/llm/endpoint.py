"""One OpenAI-compatible endpoint: bounded, limited, retried; its key appears nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from profiles.llm.base import REFUSAL, REFUSED, Reply
from profiles.llm.limits import MinuteLimit
from profiles.progress import Progress
from profiles.prompts.kind import Message
from profiles.spec import ApiSpec, Decoding
from recbole_kd.errors import SpecError, StoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)
MAX_BACKOFF = 60.0
# A filter on contents, a history that is too long: true of one call, not of the endpoint.
ONE_CALL = (400, 413, 422)


class TransientError(Exception):
    """Worth another attempt; ``retry_after`` in seconds when the endpoint said so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RefusedError(Exception):
    """The endpoint will not take this call, now or later."""


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
        self._sent: set[asyncio.Task[Any] | None] = set()
        self._finishing = False

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def finish(self, running: set[asyncio.Task[T]]) -> set[asyncio.Task[T]]:
        """Let calls that are on their way come to an end, drop those that wait; nothing is tried again."""
        self._finishing = True
        for task in running:
            if task not in self._sent:
                task.cancel()
        if running:
            await asyncio.wait(running)
        return {task for task in running if not task.cancelled()}

    def blame(self, reason: object) -> SpecError:
        """The error that stops a job whose calls are refused."""
        return SpecError(
            f"endpoint refused the call with {reason}; check writer.model, api.base_url and the key in "
            f"{self.spec.key_variable}"
        )

    def redact(self, text: object, most: int = 300) -> str:
        """One line of at most ``most`` characters without the key."""
        line = " ".join(str(text).split())
        # Before the cut: half a key is no longer found.
        return (line.replace(self._key, "[key]") if self._key else line)[:most]

    async def chat(self, key: str, message: Message, model: str, decoding: Decoding, tokens: int) -> Reply:
        """Answer one message; ``tokens`` is what it will spend at most, for the limit.

        ``seconds`` of the reply are those of the last attempt, from the moment it is sent: neither the wait
        for limits and a slot nor attempts that failed before.
        """
        started = time.perf_counter()

        async def once() -> Reply:
            nonlocal started
            started = time.perf_counter()
            answer = await self._client.chat.completions.create(
                **body(message, model, decoding), extra_body=self.spec.extra_body
            )
            return read_answer(key, message, answer, time.perf_counter() - started, tokens)

        try:
            return await self._patiently(once, tokens)
        except (TransientError, RefusedError) as error:
            end = REFUSED if isinstance(error, RefusedError) else "error"
            return Reply(key, "", 0, 0, time.perf_counter() - started, end, error=self.redact(error))

    async def embed(self, texts: list[str], model: str, dimension: int | None) -> list[list[float]]:
        """Embed texts, in order."""

        async def once() -> list[list[float]]:
            options: dict[str, Any] = {"dimensions": dimension} if dimension else {}
            answer = await self._client.embeddings.create(
                model=model, input=texts, encoding_format="float", extra_body=self.spec.extra_body, **options
            )
            data = sorted(answer.data or [], key=lambda item: item.index)
            if len(data) != len(texts):
                raise TransientError(f"{len(data)} vectors for {len(texts)} texts")
            return [list(item.embedding) for item in data]

        try:
            return await self._patiently(once, sum(map(len, texts)) // 4)
        except RefusedError as error:
            raise self.blame(error) from None
        except TransientError as error:
            raise StoreError(
                f"embeddings endpoint gave no answer ({self.redact(error)}); run the command again"
            ) from None  # what the endpoint echoed stays out of the traceback

    async def _patiently(self, once: Callable[[], Awaitable[T]], tokens: int) -> T:
        from tenacity import AsyncRetrying, retry_if_exception_type

        async for attempt in AsyncRetrying(
            stop=lambda state: self._finishing or state.attempt_number >= self.spec.attempts,
            wait=self._pause,
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        ):
            with attempt:
                await self._requests.take()
                await self._tokens.take(tokens)
                async with self._slots:
                    task = asyncio.current_task()
                    self._sent.add(task)
                    try:
                        return await self._sorted_errors(once)
                    finally:
                        self._sent.discard(task)
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
        """Tell what may pass (try again) from what will not: of this call, or of any (stop the job)."""
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
            reason = f"status {status} ({self.redact(_reason(error), 160)})"
            if status in ONE_CALL:
                raise RefusedError(reason) from None
            raise self.blame(reason) from None
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
    usage = getattr(answer, "usage", None)
    prompt = int(getattr(usage, "prompt_tokens", 0) or tokens)
    completion = int(getattr(usage, "completion_tokens", 0) or len(text) // 4)
    if getattr(choices[0].message, "refusal", None) and not text:
        return Reply(key, "", prompt, completion, seconds, REFUSAL, error="refusal")
    return Reply(
        key, text, prompt, completion, seconds, str(choices[0].finish_reason or "stop"), complete=True
    )


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
