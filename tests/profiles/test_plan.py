from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiles.history import train_histories
from profiles.job import Budget, parse_changes, refuse_over_budget
from profiles.llm.base import Request
from profiles.llm.batch_file import BatchFileBackend, read_batch_file, write_batch_file
from profiles.plan import plan_profiles
from profiles.prices import ModelPrice, PriceTable, load_prices, price_function
from profiles.prompts.kind import Message
from profiles.refresh import run_policy
from profiles.spec import RefreshSpec, WriterSpec
from profiles.store import Store
from profiles.write import Author, accept_replies, write_profiles
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError, StoreError

from .conftest import HISTORIES
from .fakes import EchoBackend
from .fault_server import completion

PRICES = PriceTable(dated="2020-01", models={"echo": ModelPrice(input=2.0, output=10.0, batch=0.5)})


def make(template: dict, texts: dict, split: Split, backend: type = EchoBackend, **history: object) -> Author:
    raw = template["writer"] | {
        "prompt": "plain",
        "domain": "movies",
        "backend": "openai",
        "model": "gpt-4o-mini",
    }
    raw["history"] = raw["history"] | history
    raw["api"] = {
        "base_url": "http://127.0.0.1:9/v1",
        "key_variable": "NONE",
        "concurrency": 2,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout": 1.0,
        "attempts": 1,
    }
    spec = WriterSpec.model_validate(raw)
    return Author(spec, texts, train_histories(split), backend=backend(spec))


@pytest.mark.parametrize(
    "history", [{}, {"strategy": "agg_with", "max_items": 3}, {"strategy": "agg_after", "max_items": 3}]
)
def test_plan_counts_what_the_job_then_does(
    history: dict, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    histories = train_histories(split)
    made = make(template, texts, split, **history)
    with Store(tmp_path / "s.sqlite") as store:
        plan = plan_profiles(made, histories, store, PRICES)
        assert made.backend.asked == []
        assert (plan.users, plan.stored, plan.exact) == (8, 0, True)
        outcome = write_profiles(made, histories, store, "tiny")
        assert plan.calls == outcome.answered == len(made.backend.asked)
        actual = sum(made.backend.count_prompt_tokens(made.backend.asked))
        # Stand-in answers are as long as allowed, real ones shorter.
        assert plan.prompt_tokens >= actual
        if not history:
            assert plan.prompt_tokens == actual
        assert plan.usd == pytest.approx(
            (2 * plan.prompt_tokens + 10 * plan.calls * made.spec.decoding.max_new_tokens) / 1e6
        )
        assert plan.batch_usd == pytest.approx(plan.usd / 2)
        after = plan_profiles(make(template, texts, split, **history), histories, store, PRICES)
        assert (after.calls, after.stored, after.usd) == (0, 8, 0)


def test_partly_done_jobs_are_priced_for_the_rest_and_scaled(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    histories = train_histories(split)
    made = make(template, texts, split)
    with Store(tmp_path / "s.sqlite") as store:
        write_profiles(made, histories[:6], store, "tiny")
        plan = plan_profiles(made, histories, store, PRICES)
        assert (plan.calls, plan.stored) == (2, 6)
        assert plan.likely_completion_tokens == 6  # EchoBackend answers with 3 tokens
        assert plan.seconds == pytest.approx(2 * 0.5 / 2)  # 0.5 s a call, two at a time
        million = plan.scaled(1_000_000)
        assert million["calls"] == pytest.approx(1_000_000)
        assert million["usd"] == pytest.approx(plan.likely_usd * 500_000)


def test_a_sample_scales_to_all(split: Split, texts: dict, template: dict, tmp_path: Path) -> None:
    many = train_histories(split)
    with Store(tmp_path / "s.sqlite") as store:
        whole = plan_profiles(make(template, texts, split), many, store, PRICES)
        part = plan_profiles(make(template, texts, split), many, store, PRICES, sample=4)
    assert (part.users, part.counted, part.calls) == (8, 4, 8)
    assert part.prompt_tokens == pytest.approx(whole.prompt_tokens, rel=0.15)


def test_budget_refuses_before_and_stops_within(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    refuse_over_budget(0.9, 1.0, free=False)
    refuse_over_budget(None, 1.0, free=True)
    with pytest.raises(StoreError, match=r"may cost 1.10 USD; nothing was asked"):
        refuse_over_budget(1.1, 1.0, free=False)
    with pytest.raises(StoreError, match="no price"):
        refuse_over_budget(None, 1.0, free=False)
    made = make(template, texts, split)
    meter = Budget(3.0, lambda prompt, completion: 1.0)
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(StoreError, match=r"budget of 3.00 USD is spent after 4 of 8 users"):
            write_profiles(made, train_histories(split), store, "tiny", meter, meter.price)
        assert store.spent() == 4.0  # two a batch: the third passed the sum, the fourth was under way
        resumed = make(template, texts, split)
        meter = Budget(9.0, lambda prompt, completion: 1.0)
        write_profiles(resumed, train_histories(split), store, "tiny", meter, meter.price)
        assert len(resumed.backend.asked) == 4


def test_shipped_prices_are_dated_and_find_dated_names() -> None:
    table = load_prices()
    assert table.dated
    assert table.find("gpt-4o-mini-2024-07-18") == table.models["gpt-4o-mini"]
    assert table.find("gpt-4o-mini-audio") is None
    assert price_function("unheard-of")(10, 10) is None


def test_changes_on_the_command_line() -> None:
    assert parse_changes(["a.b=3", "a.c=null", "d=[1, x]"]) == {"a": {"b": 3, "c": None}, "d": [1, "x"]}
    with pytest.raises(SpecError, match="expected key=value"):
        parse_changes(["writer"])


def answers(path: Path, lines: list[dict], **changes: dict) -> Path:
    """Answer a batch file as a provider would, with changes by custom_id."""
    out = []
    for line in lines:
        key = line["custom_id"]
        body = completion(f"Answer to {key}.")
        out.append(
            {"id": "r", "custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}
            | changes.get(key, {})
        )
    path.write_text("\n".join(json.dumps(record) for record in out))
    return path


def round_trip(
    template: dict, texts: dict, split: Split, store: Store, folder: Path, **history: object
) -> int:
    """Export, answer and import until nothing is left; return the number of rounds."""
    for rounds in range(10):
        made = make(template, texts, split, BatchFileBackend, **history)
        made.backend.pending = []
        write_profiles(made, train_histories(split), store, "tiny")
        if not made.backend.pending:
            return rounds
        write_batch_file(folder / "in.jsonl", made.backend.pending, made.backend)
        lines = [json.loads(line) for line in (folder / "in.jsonl").read_text().splitlines()]
        found = read_batch_file(answers(folder / "out.jsonl", lines), made.backend.pending)
        assert [found.missing, found.unknown, found.repeated, found.failed] == [[], [], [], {}]
        accept_replies(
            made, store, made.backend.pending, found.replies, price_function("gpt-4o-mini", batch=True)
        )
    raise AssertionError("does not end")


@pytest.mark.parametrize(
    ("history", "rounds"),
    [({}, 1), ({"strategy": "agg_with", "max_items": 3}, 3), ({"strategy": "agg_after", "max_items": 3}, 4)],
)
def test_batch_files_lead_to_the_same_profiles_as_calls(
    history: dict, rounds: int, split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    with Store(tmp_path / "batch.sqlite") as store:
        assert round_trip(template, texts, split, store, tmp_path, **history) == rounds
        by_batch = [(p.user, p.text, p.history_hash, p.input, p.prompt) for p in store.profiles()]
        assert store.spent() == pytest.approx(sum(p.price for p in store.profiles()))
        assert store.spent() > 0
    direct = make(template, texts, split, **history)
    direct.backend.answer = lambda m: f"Answer to {m.digest}."
    with Store(tmp_path / "direct.sqlite") as store:
        write_profiles(direct, train_histories(split), store, "tiny")
        assert [(p.user, p.text, p.history_hash, p.input, p.prompt) for p in store.profiles()] == by_batch


def test_batch_lines_have_the_form_of_the_api(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, BatchFileBackend)
    with Store(tmp_path / "s.sqlite") as store:
        write_profiles(made, train_histories(split), store, "tiny")
    write_batch_file(tmp_path / "in.jsonl", made.backend.pending, made.backend)
    lines = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines) == 8
    for line in lines:
        assert (line["method"], line["url"], line["body"]["model"]) == (
            "POST",
            "/v1/chat/completions",
            "gpt-4o-mini",
        )
        assert {m["role"] for m in line["body"]["messages"]} == {"system", "user"}


def test_wrong_answers_are_reported_one_by_one(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, BatchFileBackend)
    with Store(tmp_path / "s.sqlite") as store:
        write_profiles(made, train_histories(split), store, "tiny")
        pending = made.backend.pending
        keys = [r.key for r in pending]
        lines = [{"custom_id": k} for k in (*keys[1:], keys[2], "stranger")]
        failed = {"response": {"status_code": 500, "body": {}}}
        refused = {"response": {"status_code": 200, "body": completion("I'm sorry, I can't.")}}
        path = answers(tmp_path / "out.jsonl", lines, **{keys[3]: failed, keys[4]: refused})
        found = read_batch_file(path, pending)
        assert found.missing == [keys[0]]
        assert found.unknown == ["stranger"]
        assert found.repeated == [keys[2]]
        assert found.failed == {keys[3]: "status 500"}
        unusable = accept_replies(made, store, pending, found.replies, lambda p, c: None)
        assert unusable == {keys[4]: "refusal"}
        made.backend.pending = []
        write_profiles(made, train_histories(split), store, "tiny")
        assert sorted(r.key for r in made.backend.pending) == sorted([keys[0], keys[3], keys[4]])


def test_answers_may_come_in_several_files(split: Split, texts: dict, template: dict, tmp_path: Path) -> None:
    """Users whose answers were in the first file ask on; the others' first calls are still open."""
    history = {"strategy": "agg_with", "max_items": 3}
    with Store(tmp_path / "s.sqlite") as store:
        made = make(template, texts, split, BatchFileBackend, **history)
        write_profiles(made, train_histories(split), store, "tiny")
        first = list(made.backend.pending)
        write_batch_file(tmp_path / "in.jsonl", first, made.backend)
        lines = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
        for number, part in enumerate((lines[:3], lines[3:])):
            made = make(template, texts, split, BatchFileBackend, **history)
            write_profiles(made, train_histories(split), store, "tiny")
            found = read_batch_file(answers(tmp_path / f"{number}.jsonl", part), made.backend.pending)
            assert found.unknown == []
            assert len(found.replies) == len(part)
            accept_replies(made, store, made.backend.pending, found.replies, lambda p, c: None)
        made = make(template, texts, split, BatchFileBackend, **history)
        write_profiles(made, train_histories(split), store, "tiny")
        assert not {r.key for r in first} & {r.key for r in made.backend.pending}


def test_an_answer_may_hold_separators_that_json_does_not_escape(tmp_path: Path) -> None:
    text = "Likes drama.\u2028And war\u2029films\u0085a lot."
    record = {"custom_id": "k", "response": {"status_code": 200, "body": completion(text)}, "error": None}
    line = json.dumps(record, ensure_ascii=False)
    assert len(line.splitlines()) == 4
    (tmp_path / "out.jsonl").write_bytes(f"{line}\r\n".encode())
    found = read_batch_file(tmp_path / "out.jsonl", [Request("k", Message("", "q", ""))])
    assert [reply.text for reply in found.replies] == [text]


def test_a_broken_answer_file_is_refused_whole(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").write_text('{"custom_id": "x", "body": {}}\n')
    with pytest.raises(StoreError, match="line 1: not an answer"):
        read_batch_file(tmp_path / "out.jsonl", [])


def policy(split: Split, start: dict[str, int] | None = None, vectors: dict | None = None, **spec: object):  # type: ignore[no-untyped-def]
    return run_policy(RefreshSpec(**spec), train_histories(split), start or {}, vectors)  # type: ignore[arg-type]


TRAIN = {user: len(h) - 2 for user, h in HISTORIES.items()}


def test_never_and_every_n_by_hand(split: Split) -> None:
    never = policy(split, policy="never")
    assert never.writings == {user: [1] for user in TRAIN}
    # The k-th interaction after the first finds a profile of length 1: unseen k - 1 = 1 .. n - 1.
    unseen = [k - 1 for n in TRAIN.values() for k in range(2, n + 1)]
    assert never.staleness == pytest.approx(sum(unseen) / len(unseen))
    every = policy(split, start={"u6": 2}, policy="every-n", n=2)
    assert every.writings["u6"] == [2, 4, 6]
    assert every.writings["u1"] == [1, 3, 5]
    assert every.calls == sum(map(len, every.writings.values()))
    assert policy(split, policy="every-n", n=1).staleness == 1.0


def test_in_force_are_prefixes_seen_by_the_last_writing(split: Split) -> None:
    log = policy(split, policy="every-n", n=3)
    assert [h.last for h in log.in_force(train_histories(split))] == [log.writings[u][-1] for u in TRAIN]


def test_most_active_takes_the_share_at_each_checkpoint(split: Split) -> None:
    start = dict.fromkeys(TRAIN, 1)
    log = policy(split, start, policy="most-active", share=0.25, checkpoints=1)
    # At the only checkpoint everything has come: most new interactions have u6 (6) and u1 (5).
    assert log.writings == {user: [1, n] if user in ("u6", "u1") else [1] for user, n in TRAIN.items()}
    assert log.calls == 8 + 2
    everybody = policy(split, start, policy="most-active", share=1.0, checkpoints=3)
    for user, n in TRAIN.items():
        assert everybody.writings[user][-1] == n
        assert everybody.writings[user] == sorted(set(everybody.writings[user]))


def test_drift_by_brute_force(split: Split) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    vectors = {item: rng.normal(size=5) for h in train_histories(split) for item in h.items}
    for threshold in (0.0, 0.2, 0.5, 2.0):
        log = policy(split, {"u6": 2}, vectors, policy="drift", threshold=threshold)
        for h in train_histories(split):

            def mean(n: int, items: tuple[str, ...] = h.items) -> np.ndarray:
                v = np.mean([vectors[i] for i in items[:n]], axis=0)
                return v / np.linalg.norm(v)

            expected = [2 if h.user == "u6" else 1]
            for n in range(expected[0] + 1, h.last + 1):
                if 1 - mean(n) @ mean(expected[-1]) > threshold:
                    expected.append(n)
            assert log.writings[h.user] == expected
    assert policy(split, None, vectors, policy="drift", threshold=2.0).refreshed_users == 0


@pytest.mark.parametrize(
    "spec", [{"policy": "every-n"}, {"policy": "most-active"}, {"policy": "drift"}, {"policy": "nver"}]
)
def test_incomplete_policies_are_named(split: Split, spec: dict) -> None:
    with pytest.raises(SpecError, match=r"needs|did you mean 'never'"):
        policy(split, **spec)
