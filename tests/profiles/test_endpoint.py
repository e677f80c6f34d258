"""The API back-end against a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("openai")

from profiles.history import train_histories
from profiles.job import Budget
from profiles.llm import crowd
from profiles.llm import endpoint as endpoint_module
from profiles.llm import limits as limits_module
from profiles.llm.endpoint import embed
from profiles.llm.limits import MinuteLimit
from profiles.llm.openai_api import OpenAIBackend
from profiles.prompts.kind import Message
from profiles.spec import ApiSpec, WriterSpec
from profiles.store import Store
from profiles.strategies import STRATEGIES
from profiles.write import Author, Outcome, write_profiles
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError, StoreError

from .fault_server import KEY, FaultServer, serve


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    original = endpoint_module.Endpoint.__init__
    monkeypatch.setattr(
        endpoint_module.Endpoint, "__init__", lambda self, spec: original(self, spec, first_wait=0.01)
    )


def api(server: FaultServer, **changes: object) -> dict[str, object]:
    return {
        "base_url": server.url,
        "key_variable": "TEST_KEY",
        "concurrency": 4,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout": 10.0,
        "attempts": 4,
    } | changes


def author(server: FaultServer, template: dict, texts: dict, split: Split, **changes: object) -> Author:
    raw = template["writer"] | {
        "backend": "openai",
        "model": "gpt-4o-mini",
        "prompt": "plain",
        "domain": "movies",
    }
    spec = WriterSpec.model_validate(raw | {"api": api(server, **changes)})
    return Author(spec, texts, train_histories(split), backend=OpenAIBackend(spec))


def write(made: Author, split: Split, path: Path) -> Outcome:
    from profiles.prices import price_function

    with Store(path) as store:
        return write_profiles(
            made, train_histories(split), store, "tiny", price=price_function("gpt-4o-mini")
        )


def test_transient_faults_are_retried_until_everything_is_written(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve(
        {
            '"Heat"': ["429"] * 3,
            '"Big Sleep': ["500"],
            '"The Big Sleep"': ["cut", "500"],
            '"Psycho"': ["malformed", "no-choices"],
        }
    ) as server:
        made = author(server, template, texts, split)
        outcome = write(made, split, tmp_path / "s.sqlite")
        assert outcome.failed == {}
        assert len(outcome.profiles) == 8
        assert sum(server.attempts.values()) > 8 + 5
        for p in outcome.profiles:
            assert (p.prompt_tokens, p.completion_tokens, p.finish_reason) == (11, 7, "stop")
            assert p.price == pytest.approx((11 * 0.15 + 7 * 0.60) / 1e6)
        calls = sum(server.attempts.values())
        assert write(made, split, tmp_path / "s.sqlite").answered == 0
        assert sum(server.attempts.values()) == calls


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "status 500"),
        ("429", "status 429"),
        ("malformed", "malformed answer"),
        ("cut", "connection failed"),
        ("no-choices", "without choices"),
    ],
)
def test_faults_that_do_not_pass_cost_one_user_only(
    fault: str, reason: str, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve({'"Heat"': [fault] * 4}) as server:
        outcome = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        hit = set(outcome.failed)
        assert hit
        assert all(reason in why for why in outcome.failed.values())
        assert len(outcome.profiles) == 8 - len(hit)
        assert max(server.attempts.values()) == 4
        # The next run asks for these users alone.
        again = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        assert (again.failed, again.answered) == ({}, len(hit))


@pytest.mark.parametrize(("fault", "reason"), [("empty", "empty answer"), ("refusal", "refusal")])
def test_useless_answers_are_not_kept(
    fault: str, reason: str, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve({'"Heat"': [fault]}) as server:
        outcome = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        assert set(outcome.failed.values()) == {reason}
        with Store(tmp_path / "s.sqlite") as store:
            assert not [p for p in store.profiles() if p.user in outcome.failed]
        assert write(author(server, template, texts, split), split, tmp_path / "s.sqlite").failed == {}


def test_a_slow_answer_times_out_and_is_tried_again(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve({'"Heat"': ["slow"]}) as server:
        made = author(server, template, texts, split, timeout=0.6)
        outcome = write(made, split, tmp_path / "s.sqlite")
        assert outcome.failed == {}
        assert max(server.attempts.values()) == 2


@pytest.mark.parametrize("fault", ["401", "400"])
def test_a_refused_call_stops_at_once_and_no_key_leaks(
    fault: str, split: Split, texts: dict, template: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve({"": [fault] * 50}) as server:
        with pytest.raises(SpecError, match=f"status {fault}") as caught:
            write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        # The server echoes the Authorization header into its error message.
        assert f"Bearer {KEY}" in server.headers_seen
        assert sum(server.attempts.values()) <= 2 * 4
    message = str(caught.value)
    assert KEY not in message
    assert "[key]" in message
    assert "\n" not in message
    assert not [r for r in caplog.records if r.name.startswith("profiles") and KEY in r.getMessage()]


@pytest.mark.parametrize("end", ["\r", "\r\n", " "])
def test_a_key_is_read_without_its_line_end(
    end: str, split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY + end)
    with serve() as server:
        outcome = write(author(server, template, texts, split, attempts=1), split, tmp_path / "s.sqlite")
        assert outcome.failed == {}
        assert set(server.headers_seen) == {f"Bearer {KEY}"}


@pytest.mark.parametrize("broken", ["sk-test\r0123456789", "sk-test 0123456789", "sk-test0123456789\u2019"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", broken)
    with serve() as server:
        with pytest.raises(SpecError, match="key in TEST_KEY holds") as caught:
            endpoint_module.Endpoint(ApiSpec.model_validate(api(server)))
        assert not server.headers_seen
    assert "0123456789" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_is_redacted_before_the_line_is_cut() -> None:
    with serve() as server:
        made = endpoint_module.Endpoint(ApiSpec.model_validate(api(server)))
    for before in range(120, 170):
        error = SimpleNamespace(body={"error": {"message": "x" * before + KEY}})
        assert "sk-t" not in made.redact(endpoint_module._reason(error), 160)
    for before in range(270, 310):
        assert "sk-t" not in made.redact("x" * before + KEY)


def test_the_traceback_of_embeddings_has_no_key() -> None:
    with serve({"a": ["500"] * 9}) as server, pytest.raises(StoreError) as caught:
        embed(ApiSpec.model_validate(api(server, attempts=1)), "m", [["a"]], None)
    assert "Bearer" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("fault", ["400", "413", "422"])
def test_a_call_that_is_refused_for_good_costs_one_user_only(
    fault: str, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    # Refusals come at once and answers late, as from a model: the refused calls are the first to end.
    with serve({'"Heat"': [fault] * 9, "": ["late"] * 9}) as server:
        made = author(server, template, texts, split, concurrency=8)
        outcome = write(made, split, tmp_path / "s.sqlite")
        hit = set(outcome.failed)
        assert hit
        assert all(f"status {fault}" in why and KEY not in why for why in outcome.failed.values())
        assert len(outcome.profiles) == 8 - len(hit)
        assert max(server.attempts.values()) == 1
        # Alone with the refused calls, a later run knows that the endpoint answers others.
        again = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        assert (set(again.failed), again.reused, again.answered) == (hit, 8 - len(hit), 0)


def test_a_job_that_is_stopped_keeps_what_is_answered(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve({'"Heat"': ["401"], "": ["late"] * 9}) as server:
        made = author(server, template, texts, split, concurrency=8)
        with pytest.raises(SpecError, match="status 401"):
            write(made, split, tmp_path / "s.sqlite")
        again = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        assert again.failed == {}
        assert again.reused > 0
        assert max(n for prompt, n in server.attempts.items() if '"Heat"' not in prompt) == 1


def test_a_spent_budget_keeps_what_is_on_its_way(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    def worth(prompt: int, completion: int) -> float:
        return 1.0

    with serve({'"Heat"': ["late"], '"Psycho"': ["late"]}) as server, Store(tmp_path / "s.sqlite") as store:
        made = author(server, template, texts, split, concurrency=8)
        budget = Budget(0.5, worth)
        with pytest.raises(StoreError, match="budget of"):
            write_profiles(made, train_histories(split), store, "tiny", budget, budget.price)
        assert store.spent() == budget.spent == sum(server.attempts.values()) > 1


def test_an_interrupted_wait_keeps_what_is_on_its_way(
    split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks = crowd._take, []

    def take(*given: Any) -> Any:
        looks.append(1)
        if len(looks) == 1:
            while not server.running:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(crowd, "_take", take)
    with serve({"": ["late"] * 9}) as server, Store(tmp_path / "s.sqlite") as store:
        made = author(server, template, texts, split, concurrency=2)
        with pytest.raises(KeyboardInterrupt):
            write_profiles(made, train_histories(split), store, "tiny")
        asked = sum(server.attempts.values())
        assert 0 < asked < 8
        assert len(store.calls(made.writer, [m.digest for m in _messages(made, split)])) == asked


def _messages(made: Author, split: Split) -> list[Message]:
    return [m for h in train_histories(split) for m in next(STRATEGIES["recent"](made.job(h)))]


@pytest.mark.parametrize("fault", ["empty", "refusal", "refusal-field"])
def test_answers_of_no_use_are_on_the_bill(
    fault: str, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    tokens: list[tuple[int, int]] = []

    def price(prompt: int, completion: int) -> None:
        tokens.append((prompt, completion))

    with serve({"": [fault] * 9}) as server, Store(tmp_path / "s.sqlite") as store:
        made = author(server, template, texts, split)
        outcome = write_profiles(made, train_histories(split), store, "tiny", price=price)
    assert len(outcome.failed) == 8
    assert tokens == [(11, 7)] * 8


def test_no_key_in_the_store(
    split: Split, texts: dict, template: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serve({'"Heat"': ["500", "429"], '"Glory"': ["500"] * 4}) as server:
        outcome = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
    assert outcome.profiles
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert KEY.encode() not in content
        assert b"127.0.0.1" not in content
    assert KEY not in caplog.text
    assert KEY not in str(outcome.failed)


def test_a_dead_endpoint_is_given_up(
    split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "GIVE_UP_AFTER", 3)
    with serve({"": ["500"] * 99}) as server:
        made = author(server, template, texts, split, attempts=2, concurrency=1)
        with pytest.raises(StoreError, match="failed 3 calls in a row"):
            write(made, split, tmp_path / "s.sqlite")
        assert sum(server.attempts.values()) < 8 * 2


def test_concurrency_is_bounded(split: Split, texts: dict, template: dict, tmp_path: Path) -> None:
    with serve({"": ["slow"]}) as server:
        write(author(server, template, texts, split, concurrency=3), split, tmp_path / "s.sqlite")
        assert server.most_running == 3


@pytest.mark.parametrize(
    ("limits", "at_once"), [({"concurrency": 1}, 1), ({"concurrency": 8, "requests_per_minute": 2}, 2)]
)
def test_seconds_are_those_of_the_model_and_not_of_the_queue(
    limits: dict,
    at_once: int,
    split: Split,
    texts: dict,
    template: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight calls of 0.3 s, one after another or two in a window of 0.8 s: all of them wait for seconds.

    However slow the machine, calls of which so many run at a time have no more seconds than that together.
    """
    monkeypatch.setattr(limits_module, "WINDOW", 0.8)
    with serve({"": ["late"] * 9}) as server:
        made, begin = author(server, template, texts, split, **limits), time.perf_counter()
        outcome = write(made, split, tmp_path / "s.sqlite")
        elapsed = time.perf_counter() - begin
    seconds = [p.seconds for p in outcome.profiles]
    assert len(seconds) == 8
    assert min(seconds) > 0.29
    assert sum(seconds) < at_once * elapsed


def test_attempts_that_failed_and_the_pauses_between_are_not_in_the_seconds(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with serve({'"Heat"': ["late-500", "late-500", "late"]}) as server:
        begin = time.perf_counter()
        outcome = write(author(server, template, texts, split), split, tmp_path / "s.sqlite")
        elapsed = time.perf_counter() - begin
        tried = max(server.attempts.values())
    assert tried == 3
    # Two attempts of 0.3 s failed before.
    assert 0.29 < max(p.seconds for p in outcome.profiles) < elapsed - 0.58


def test_a_missing_key_is_named_before_anything_is_sent(
    template: dict, texts: dict, split: Split, tmp_path: Path
) -> None:
    with serve() as server:
        made = author(server, template, texts, split, base_url=None, key_variable="NO_SUCH_KEY")
        with pytest.raises(SpecError, match="NO_SUCH_KEY is empty"):
            write(made, split, tmp_path / "s.sqlite")


def test_requests_carry_decoding_and_opening(
    template: dict, texts: dict, split: Split, tmp_path: Path
) -> None:
    with serve() as server:
        made = author(server, template, texts, split, extra_body={"top_k": 5})
        write(made, split, tmp_path / "s.sqlite")
        body = server.bodies[0]
        d = made.spec.decoding
        assert (body["max_tokens"], body["temperature"], body["seed"], body["top_k"]) == (
            d.max_new_tokens,
            0,
            0,
            5,
        )
        assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_embeddings_come_back_in_order_through_a_fault() -> None:
    with serve({"a": ["500"]}) as server:
        spec = ApiSpec.model_validate(api(server, extra_body={"truncate_prompt_tokens": 8}))
        vectors = embed(spec, "m", [["a", "bb"], ["ccc"]], None)
        assert {body.get("truncate_prompt_tokens") for body in server.bodies} == {8}
    assert vectors == [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("limit", "units"), [(5, 1), (100, 30), (100, 250)])
def test_no_minute_sees_more_than_the_limit(limit: int, units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    moments: list[float] = []

    async def run() -> None:
        limiter = MinuteLimit(limit, clock)
        for _ in range(17):
            await limiter.take(units)
            moments.append(clock.now)

    asyncio.run(run())
    each = min(units, limit)
    for start in moments:
        assert each * sum(start <= m < start + 60 for m in moments) <= limit
    assert moments[-1] == pytest.approx(60 * ((17 - 1) // (limit // each)), abs=0.1)
