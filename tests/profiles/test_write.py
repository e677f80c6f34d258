from __future__ import annotations

import random
from pathlib import Path

import pytest

from profiles.history import train_histories
from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from profiles.store import Call, Store, Writer
from profiles.write import Author, write_profiles
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError

from .conftest import HISTORIES
from .fakes import EchoBackend


def make(template: dict, texts: dict, split: Split, prompt: str = "plain", **history: object) -> Author:
    raw = template["writer"] | {"prompt": prompt, "domain": "movies", "backend": "local", "model": "echo"}
    raw["history"] = raw["history"] | history
    spec = WriterSpec.model_validate(raw)
    return Author(spec, texts, train_histories(split), backend=EchoBackend(spec))


def rows(store: Store) -> list:
    return [(p.user, p.profile, p.text, p.calls, p.completion_tokens, p.input) for p in store.profiles()]


def test_every_user_gets_a_profile_with_its_provenance(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    histories = train_histories(split)
    with Store(tmp_path / "s.sqlite") as store:
        outcome = write_profiles(make(template, texts, split), histories, store, "tiny")
        assert [p.user for p in outcome.profiles] == [h.user for h in histories]
        for p, h in zip(outcome.profiles, histories, strict=True):
            assert (p.history_last, p.history_hash, p.calls, p.completion_tokens) == (h.last, h.hash, 1, 3)
        again = make(template, texts, split)
        second = write_profiles(again, histories, store, "tiny")
        assert (second.answered, again.backend.asked) == (0, [])
        assert second.profiles == outcome.profiles


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    options = {"strategy": "agg_with", "max_items": 2}
    histories = train_histories(split)
    with Store(tmp_path / "whole.sqlite") as store:
        whole = make(template, texts, split, **options)
        write_profiles(whole, histories, store, "tiny")
        expected = rows(store)
    rng = random.Random(3)
    asked = 0
    for _ in range(3):
        partial = make(template, texts, split, **options)
        partial.backend.die_after = rng.randrange(2, 5)
        with Store(tmp_path / "cut.sqlite") as store, pytest.raises(KeyboardInterrupt):
            write_profiles(partial, histories, store, "tiny")
        asked += len(partial.backend.asked)
    last = make(template, texts, split, **options)
    with Store(tmp_path / "cut.sqlite") as store:
        write_profiles(last, histories, store, "tiny")
        assert rows(store) == expected
    # Batches are whole or absent, so nothing was asked twice but what was in flight at each kill.
    assert asked + len(last.backend.asked) == len(whole.backend.asked)


def test_answers_are_stored_though_the_store_is_interrupted(
    split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a locked file, Ctrl-C in the middle of storing: what was paid for is stored after all."""
    made, priced = make(template, texts, split), []
    with Store(tmp_path / "s.sqlite") as store:
        add, failures = store.add_calls, [KeyboardInterrupt]

        def interrupted(writer: Writer, calls: list[Call]) -> None:
            if failures:
                raise failures.pop()
            add(writer, calls)

        monkeypatch.setattr(store, "add_calls", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_profiles(made, train_histories(split), store, "tiny", price=lambda *n: priced.append(n))
        stored = store.calls(made.writer, [m.digest for m in made.backend.asked])
    assert len(stored) == len(made.backend.asked) == len(priced) == 2


def positions(message: Message, split: Split, texts: dict) -> list[str]:
    return [line for line in message.user.splitlines() if line.startswith("- ")]


def test_recent_shows_the_latest_items_in_order(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, strategy="recent", max_items=3)
    histories = train_histories(split)
    with Store(tmp_path / "s.sqlite") as store:
        write_profiles(made, histories[:1], store, "tiny")
    titles = [line.split('"')[1] for line in positions(made.backend.asked[0], split, texts)]
    assert titles == ["Casablanca", "Alien", "Dumbo"]
    assert HISTORIES["u1"][3:6] == "def"


def test_token_budget_is_by_the_tokenizer_and_holds(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, strategy="recent", max_tokens=75)
    with Store(tmp_path / "s.sqlite") as store:
        write_profiles(made, train_histories(split), store, "tiny")
    counts = made.backend.count_prompt_tokens(made.backend.asked)
    assert max(counts) <= 75
    u6 = next(h for h in train_histories(split) if h.user == "u6")
    shown = made.job(u6).longest(list(range(u6.last)), from_end=True)
    assert 0 < len(shown) < u6.last
    one_more = made.job(u6).ask(list(range(u6.last))[-len(shown) - 1 :])
    assert made.backend.count_prompt_tokens(one_more)[0] > 75


def test_a_budget_too_small_for_one_item_is_an_error(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, strategy="recent", max_tokens=64)
    made.backend.count_prompt_tokens = lambda messages: [1000 for _ in messages]  # type: ignore[method-assign]
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(SpecError, match="not even one item"):
        write_profiles(made, train_histories(split), store, "tiny")


def test_sampled_is_seeded_in_time_order_and_grows(split: Split, texts: dict, template: dict) -> None:
    def shown(n: int, seed: int = 0) -> list[str]:
        made = make(template, texts, split, strategy="sampled", max_items=n, seed=seed)
        u6 = next(h for h in train_histories(split) if h.user == "u6")
        from profiles.strategies import sampled

        return positions(next(sampled(made.job(u6)))[0], split, texts)

    everything = shown(7)
    assert shown(3) == shown(3)
    assert set(shown(3)) <= set(shown(5)) <= set(everything)
    assert [line for line in everything if line in shown(3)] == shown(3)
    assert len({tuple(shown(3, seed)) for seed in range(8)}) > 1


def test_agg_after_profiles_parts_then_merges(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    made = make(template, texts, split, strategy="agg_after", max_items=3)
    u6 = [h for h in train_histories(split) if h.user == "u6"]
    with Store(tmp_path / "s.sqlite") as store:
        profile = write_profiles(made, u6, store, "tiny").profiles[0]
    parts, merge = made.backend.asked[:-1], made.backend.asked[-1]
    assert [len(positions(m, split, texts)) for m in parts] == [3, 3, 1]
    for part in parts:
        assert f"profile {part.digest}." in merge.user
    assert profile.text == f"profile {merge.digest}."
    assert (profile.calls, profile.completion_tokens, profile.seconds) == (4, 12, 2.0)
    assert profile.strategy == "agg_after items=3"


def test_agg_with_updates_part_by_part(split: Split, texts: dict, template: dict, tmp_path: Path) -> None:
    made = make(template, texts, split, strategy="agg_with", max_items=3)
    u6 = [h for h in train_histories(split) if h.user == "u6"]
    with Store(tmp_path / "s.sqlite") as store:
        profile = write_profiles(made, u6, store, "tiny").profiles[0]
    first, second, third = made.backend.asked
    assert f"profile {first.digest}." in second.user
    assert f"profile {second.digest}." in third.user
    assert [len(positions(m, split, texts)) for m in (first, second, third)] == [3, 3, 1]
    assert profile.text == f"profile {third.digest}."


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
def test_every_call_of_every_round_keeps_the_token_budget(
    split: Split, texts: dict, template: dict, tmp_path: Path, strategy: str
) -> None:
    made = make(template, texts, split, strategy=strategy, max_items=2, max_tokens=115)
    made.backend.answer = lambda m: f"{m.digest} " + "taste " * 25
    with Store(tmp_path / "s.sqlite") as store:
        outcome = write_profiles(made, train_histories(split), store, "tiny")
    assert not outcome.failed
    assert max(made.backend.count_prompt_tokens(made.backend.asked)) <= 115
    assert max(p.calls for p in outcome.profiles) >= 3
    # Every item of every history was shown once.
    titles = [line.split('"')[1] for m in made.backend.asked for line in positions(m, split, texts)]
    assert len(titles) == sum(h.last for h in train_histories(split))


@pytest.mark.parametrize("strategy", ["recent", "agg_after", "agg_with"])
def test_aspects_give_several_profiles(
    split: Split, texts: dict, template: dict, tmp_path: Path, strategy: str
) -> None:
    made = make(template, texts, split, "aspects", strategy=strategy, max_items=4)
    with Store(tmp_path / "s.sqlite") as store:
        profiles = write_profiles(made, train_histories(split), store, "tiny").profiles
    k = made.prompt.profiles_per_user
    assert k == 3
    assert [(p.user, p.profile) for p in profiles] == [(u, i) for u in HISTORIES for i in range(k)]
    assert all(len({p.text for p in profiles if p.user == u}) == k for u in HISTORIES)


def test_unusable_answers_are_reported_and_asked_again(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    histories = train_histories(split)
    made = make(template, texts, split)
    hopeless = made.job(histories[2]).ask(list(range(histories[2].last)))[0].digest
    made.backend.answer = lambda m: "I'm sorry, I can't." if m.digest == hopeless else "fine."
    with Store(tmp_path / "s.sqlite") as store:
        first = write_profiles(made, histories, store, "tiny")
        assert first.failed == {"u3": "refusal"}
        assert len(first.profiles) == 7
        made.backend.answer, made.backend.asked = (lambda m: "now it works."), []
        second = write_profiles(made, histories, store, "tiny")
        assert not second.failed
        assert next(p.text for p in second.profiles if p.user == "u3") == "now it works."
