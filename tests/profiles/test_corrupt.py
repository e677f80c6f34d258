from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from profiles.audit import Auditor, dose_response
from profiles.corrupt import CORRUPTIONS, apply_to_texts, corrupt_rows
from profiles.corrupt.base import sentences
from profiles.facts import Statistician
from profiles.history import train_histories
from profiles.items import Catalogue
from profiles.lexicon import Attribute, Lexicon
from profiles.placebo import shuffled
from profiles.prompts import load_domain
from profiles.spec import CorruptionSpec
from profiles.store import Profile
from recbole_kd.data.profile_table import ProfileRows
from recbole_kd.data.types import Split

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEXT_KINDS = sorted(k for k in CORRUPTIONS if CORRUPTIONS[k].level == "text")


class Bench:
    """Texts of the tiny users with everything that damages and judges them."""

    def __init__(self, split: Split, texts: dict) -> None:
        self.domain = load_domain("movies")
        self.histories = train_histories(split)
        catalogue = Catalogue(texts, self.domain)
        self.statistician = Statistician(catalogue, self.histories)
        self.lexicon = Lexicon(catalogue, (i for h in self.histories for i in h.items), titles=False)
        self.owned = [frozenset(self.lexicon.of_items(h.items)) for h in self.histories]
        self.texts = []
        for h in self.histories:
            shares = [name.lower() for name, _ in self.statistician.facts(h).shares]
            half = max(1, len(shares) // 2)
            self.texts.append(
                f"Likes {', '.join(shares[:half])}. Also watches {', '.join(shares[half:]) or 'more'}. Reads."
            )
        self.names = [h.user for h in self.histories]

    def damaged(self, kind: str, rate: float, seed: int = 0) -> list[str]:
        spec = CorruptionSpec(kind=kind, rate=rate, seed=seed)
        return apply_to_texts([spec], self.texts, self.names, self.owned, self.lexicon, self.domain)

    def profiles(self) -> list[Profile]:
        blank = Profile(
            "tiny", "", 0, 1, "h", "m", "r", "d", "movies/x@1", "recent", "i", "t", 1, 0, 0, 0.0, None, "stop"
        )
        return [
            replace(blank, user=name, text=text) for name, text in zip(self.names, self.texts, strict=True)
        ]


@pytest.fixture(scope="module")
def bench(split: Split, texts: dict) -> Bench:
    return Bench(split, texts)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_rate_zero_is_the_identity_and_one_is_not(bench: Bench, kind: str) -> None:
    assert bench.damaged(kind, 0.0) == bench.texts
    assert all(a != b for a, b in zip(bench.damaged(kind, 1.0), bench.texts, strict=True))


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_seeded(bench: Bench, kind: str) -> None:
    assert bench.damaged(kind, 0.5, seed=3) == bench.damaged(kind, 0.5, seed=3)
    if kind != "truncation":
        assert len({tuple(bench.damaged(kind, 0.5, seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("kind", ["attribute-swap", "sentence-swap", "boilerplate"])
def test_what_is_corrupted_stays_corrupted_in_the_same_way(bench: Bench, kind: str) -> None:
    """A unit is the original or has its final, rate-1 form, and never goes back."""
    cut = (lambda t: t.replace(".", ",").split(", ")) if kind == "attribute-swap" else sentences
    by_rate = {rate: [cut(t) for t in bench.damaged(kind, rate)] for rate in RATES}
    for i in range(len(bench.texts)):
        for j, original in enumerate(by_rate[0.0][i]):
            forms = [by_rate[rate][i][j] for rate in RATES]
            final = forms[-1]
            assert all(form in (original, final) for form in forms)
            changed = [form != original for form in forms]
            assert changed == sorted(changed)


@pytest.mark.parametrize("kind", ["invented-claims", "contradiction"])
def test_added_sentences_accumulate(bench: Bench, kind: str) -> None:
    steps = [[sentences(t) for t in bench.damaged(kind, rate)] for rate in RATES]
    for fewer, more in pairwise(steps):
        for a, b in zip(fewer, more, strict=True):
            rest = iter(b)
            assert all(sentence in rest for sentence in a)


def test_truncation_is_a_prefix_of_the_right_length(bench: Bench) -> None:
    for rate in RATES:
        for cut, whole in zip(bench.damaged("truncation", rate), bench.texts, strict=True):
            words = whole.split(" ")
            assert whole.startswith(cut)
            assert len(cut.split(" ")) == max(1, len(words) - int(rate * len(words) + 1e-9))


def test_swapped_attributes_are_ones_the_user_does_not_have(bench: Bench) -> None:
    for text, own, before in zip(bench.damaged("attribute-swap", 1.0), bench.owned, bench.texts, strict=True):
        mentions = [m.attribute for m in bench.lexicon.mentions(text)]
        assert len(mentions) == len(bench.lexicon.mentions(before)) > 0
        assert not set(mentions) & own


def test_share_of_damaged_units_is_the_rate() -> None:
    from profiles.corrupt.base import Dice

    dice = Dice("x")
    for rate in RATES:
        hits = np.mean([dice.hits(i, rate) for i in range(4000)])
        assert hits == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_grounding_falls_with_the_dose(bench: Bench, kind: str) -> None:
    auditor = Auditor(bench.statistician, bench.histories)
    # Another user's sentence can be true of this one as well: one draw over eight users may rise.
    seeds = range(20) if kind == "sentence-swap" else range(1)
    by_seed = [
        dose_response(auditor, bench.profiles(), {rate: bench.damaged(kind, rate, seed) for rate in RATES})
        for seed in seeds
    ]
    grounding = np.mean([scores["grounding"] for scores in by_seed], axis=0)
    assert grounding[0] > grounding[-1] + 0.05
    assert (np.diff(grounding) <= 1e-12).all(), grounding


def test_truncation_never_raises_the_coverage_of_any_text(bench: Bench) -> None:
    auditor = Auditor(bench.statistician, bench.histories)
    steps = [
        [
            auditor.score(u, t).coverage
            for u, t in zip(bench.names, bench.damaged("truncation", r), strict=True)
        ]
        for r in RATES
    ]
    for before, after in pairwise(steps):
        assert (np.asarray(after) <= np.asarray(before)).all()
    assert np.mean(steps[-1]) < np.mean(steps[0])


def test_audit_by_hand(bench: Bench) -> None:
    auditor = Auditor(bench.statistician, bench.histories)
    # u7 saw d (Drama Romance War), j (Film-Noir Romance), k (Drama War); top three: drama, romance, war.
    score = auditor.score(
        "u7", "Likes dramas, romantic films and horror. Not musicals. Likes 'Glory'. Saw Casablanca."
    )
    # Drama, romance, horror, musical and the quoted title; a single unquoted word is no title.
    assert score.mentions == 5
    assert score.supported == 3
    assert score.precision == pytest.approx(3 / 5)
    assert score.coverage == pytest.approx(2 / 3)
    assert score.grounding == pytest.approx(2 * (3 / 5) * (2 / 3) / (3 / 5 + 2 / 3))
    silent = auditor.score("u7", "A person with varied taste.")
    assert (silent.mentions, silent.coverage, silent.grounding) == (0, 0.0, 0.0)
    assert np.isnan(silent.precision)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("science fiction and comedies", ["Sci-Fi", "Comedy"]),
        ("children's and animated films", ["Children's", "Animation"]),
        ("film noir", ["Film-Noir"]),
        ("warm words, an actionable plan", []),
        ("WAR", ["War"]),
    ],
)
def test_lexicon_spellings(bench: Bench, text: str, names: list[str]) -> None:
    assert [m.attribute for m in bench.lexicon.mentions(text)] == [Attribute("category", n) for n in names]


@pytest.fixture
def rows() -> ProfileRows:
    vectors = np.random.default_rng(5).normal(size=(400, 16)).astype(np.float32)
    return ProfileRows.build(
        user=[f"u{i}" for i in range(400)], history_last=[1] * 400, history_hash=["h"] * 400, vector=vectors
    )


def damage(rows: ProfileRows, kind: str, rate: float, strength: float | None = None) -> np.ndarray:
    return corrupt_rows([CorruptionSpec(kind=kind, rate=rate, seed=1, strength=strength)], rows).vector


def test_noise_has_the_ratio_and_is_nested(rows: ProfileRows) -> None:
    full = damage(rows, "noise", 1.0, strength=4.0)
    noise = full - rows.vector
    signal = ((rows.vector - rows.vector.mean(0)) ** 2).mean()
    assert signal / (noise**2).mean() == pytest.approx(4.0, rel=0.05)
    previous = np.zeros(400, bool)
    for rate in RATES:
        vectors = damage(rows, "noise", rate, strength=4.0)
        hit = (vectors != rows.vector).any(1)
        assert hit.mean() == pytest.approx(rate, abs=0.07)
        assert (hit >= previous).all()
        assert np.array_equal(vectors[hit], full[hit])
        previous = hit


def test_rotation_turns_by_a_share_of_the_angle_and_keeps_length(rows: ProfileRows) -> None:
    end = damage(rows, "rotation", 1.0)

    def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        cos = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return np.arccos(np.clip(cos, -1, 1))

    whole = angle(rows.vector.astype(float), end.astype(float))
    assert whole.min() > 0.1
    for rate in RATES:
        turned = damage(rows, "rotation", rate).astype(float)
        np.testing.assert_allclose(angle(rows.vector.astype(float), turned), rate * whole, atol=1e-3)
        np.testing.assert_allclose(
            np.linalg.norm(turned, axis=1), np.linalg.norm(rows.vector, axis=1), rtol=1e-5
        )
    others = rows.vector / np.linalg.norm(rows.vector, axis=1, keepdims=True)
    best = (end / np.linalg.norm(end, axis=1, keepdims=True)) @ others.T
    assert (best.argmax(1) != np.arange(400)).all()
    np.testing.assert_allclose(best.max(1), 1, atol=1e-5)


def test_shuffling_everybody_is_the_placebo(rows: ProfileRows) -> None:
    """Equal vectors of equal sources; below 1 a share of the users, the same ones at every higher rate."""

    def at(rate: float) -> ProfileRows:
        return corrupt_rows([CorruptionSpec(kind="shuffle", rate=rate, seed=7)], rows)

    assert at(1.0).digest() == shuffled(rows, 7).digest()
    assert at(0.0).digest() == rows.digest()
    moved = [(at(rate).source_user != rows.user) for rate in (0.25, 0.5, 0.75)]
    shares = [m.mean() for m in moved]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.12)
    for low, high in pairwise(moved):
        assert (high[low]).all()
    half = at(0.5)
    kept = half.source_user == rows.user
    assert (half.vector[kept] == rows.vector[kept]).all()
