"""alpha per epoch and step by hand; when a run may end; what the history says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.errors import SpecError
from recbole_kd.models.sasrec import SASRecKD
from recbole_kd.ranking import rank_targets
from recbole_kd.training.fit import fit
from recbole_kd.training.run import Run
from recbole_kd.training.schedules import SCHEDULES, make_schedule
from tests.students import BACKBONES, MAX_LEN, distill_spec, student_spec, tiny_split


def _alphas(n: int = 8, epochs: int = 100, **changes) -> list[float]:
    schedule = make_schedule(distill_spec(**{"alpha": 0.8, "distil_epochs": 4, **changes}), epochs)
    return [round(schedule.alpha(epoch), 6) for epoch in range(1, n + 1)]


def test_alpha_by_hand():
    assert _alphas() == [0.8] * 4 + [0.0] * 4
    assert _alphas(schedule="constant") == [0.8] * 8
    assert _alphas(schedule="linear") == [0.8, 0.6, 0.4, 0.2] + [0.0] * 4
    falling = [0.4 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert _alphas(schedule="cosine") == [round(a, 6) for a in falling] + [0.0] * 4
    assert falling[2] == pytest.approx(0.4)
    assert _alphas(schedule="fine-tune-last", fine_tune_epochs=3, epochs=8) == [0.8] * 5 + [0.0] * 3
    assert _alphas(schedule="alternate-epochs", alternate_every=3) == [0.8, 0, 0, 0.8, 0, 0, 0, 0]
    forever = _alphas(schedule="alternate-epochs", alternate_every=3, distil_epochs=None)
    assert forever == [0.8, 0, 0, 0.8, 0, 0, 0.8, 0]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warm_up_rises_to_the_schedules_alpha(name):
    plain = _alphas(schedule=name, fine_tune_epochs=2)
    warm = _alphas(schedule=name, fine_tune_epochs=2, warm_up_epochs=3)
    assert warm == pytest.approx(
        [a * f for a, f in zip(plain, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1], strict=True)], abs=1e-5
    )


def test_alternate_batches_count_over_the_whole_run():
    spec = distill_spec(schedule="alternate-batches", alternate_every=3, distil_epochs=2)
    schedule = make_schedule(spec, 10)
    steps = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6), (3, 9)]
    assert [schedule.distils(*s) for s in steps] == [True, False, False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"schedule": "two-phase"}, 4),
        ({"schedule": "linear"}, 4),
        ({"schedule": "cosine"}, 4),
        ({"schedule": "alternate-epochs"}, 4),
        ({"schedule": "alternate-batches"}, 4),
        ({"schedule": "constant"}, 0),
        ({"schedule": "alternate-epochs", "distil_epochs": None}, 0),
    ],
)
def test_patience_begins_when_distillation_is_over(changes, begins):
    schedule = make_schedule(distill_spec(**{"distil_epochs": 4, **changes}), 100)
    assert schedule.patience_from == begins
    assert not schedule.plateau(50)
    assert schedule.last_epoch() == 100


def test_what_has_no_end_or_no_beginning_is_refused():
    for name in ("two-phase", "linear", "cosine"):
        with pytest.raises(SpecError, match=f"distil_epochs: null, but schedule {name}"):
            make_schedule(distill_spec(schedule=name, distil_epochs=None), 10)
    with pytest.raises(SpecError, match="fine_tune_epochs: 10 of at most 10 epochs"):
        make_schedule(distill_spec(schedule="fine-tune-last", fine_tune_epochs=10), 10)
    with pytest.raises(SpecError, match="did you mean 'cosine'"):
        make_schedule(distill_spec(schedule="cosin"), 10)


@pytest.fixture(scope="module")
def split():
    return tiny_split()


@pytest.fixture(scope="module")
def profiles(split):
    """Two profiles per user, means of random item vectors over the two halves of the train history."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(split.dataset.n_items, 10)).astype(np.float32)
    n = split.dataset.n_users
    vectors, mask = np.zeros((n, 2, 10), np.float32), np.ones((n, 2), bool)
    for r, user in enumerate(split.train.users):
        history = split.train.row(r)
        for k, half in enumerate(np.array_split(history, 2)):
            vectors[user, k] = items[half].mean(0)
    mask[0] = False
    mask[::3, 1] = False
    return ProfileTable(vectors=vectors, mask=mask, manifest={}, coverage=1.0, digest="x")


def _fit(split, spec, profiles=None):
    result = fit(split, spec, profiles, seed=1, device="cpu", max_item_list_length=MAX_LEN)
    return result, rank_targets(result.model, split.test, max_len=MAX_LEN, batch_size=16).rank


CHOICES = [
    {"schedule": "cosine", "pooling": "exponential", "target": "whitened-zca", "several_profiles": "nearest"},
    {"schedule": "alternate-batches", "prefixes": "every", "projector": "mlp", "reset_optimizer": True},
    {"schedule": "constant", "prefixes": "history-share", "gradient_conflict": "pcgrad"},
    {"schedule": "fine-tune-last", "several_profiles": "attention", "projection": "teacher"},
    {"schedule": "alternate-epochs", "pooling_masked": False, "coverage": "all", "layer": [1, -1]},
]


@pytest.fixture(scope="module")
def plain_ranks(split):
    """Ranks of every plain backbone after two epochs."""
    return {name: _fit(split, student_spec(name, epochs=2))[1] for name in BACKBONES}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("changes", CHOICES, ids=lambda c: c["schedule"])
def test_alpha_zero_is_the_plain_backbone_whatever_the_choices(name, changes, split, profiles, plain_ranks):
    zero = _fit(split, student_spec(name, distill_spec(alpha=0.0, **changes), epochs=2), profiles)
    assert np.array_equal(plain_ranks[name], zero[1])
    assert {(r["phase"], r["alpha"]) for r in zero[0].history} == {("plain", 0.0)}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("changes", CHOICES, ids=lambda c: c["schedule"])
def test_every_choice_trains_the_same_twice_and_lowers_its_loss(name, changes, split, profiles):
    choice = distill_spec(alpha=0.9, distil_epochs=5, **changes)
    first, again = (
        _fit(split, student_spec(name, choice, epochs=n, learning_rate=0.01), profiles)[0].history
        for n in (6, 2)
    )
    # Only fine-tune-last looks at the limit.
    same = 1 if changes["schedule"] == "fine-tune-last" else 2
    assert [r["loss"] for r in first[:same]] == [r["loss"] for r in again[:same]]
    losses = [r["loss_distil"] for r in first if r["phase"] == "distil"]
    assert min(losses[1:]) < losses[0]  # it may rise again as alpha falls


def test_history_says_phase_and_alpha(split, profiles):
    spec = student_spec("SASRec", distill_spec(schedule="linear", distil_epochs=2), epochs=3)
    rows = _fit(split, spec, profiles)[0].history
    assert [(r["phase"], r["alpha"]) for r in rows] == [
        ("distil", 0.5),
        ("distil", 0.25),
        ("fine-tune", 0.0),
    ]
    first = rows[1]
    assert first["loss"] == pytest.approx(0.25 * first["loss_distil"] + 0.75 * first["loss_rec"], rel=1e-5)
    assert np.isnan(rows[2]["loss_distil"])


def test_only_every_kth_step_distils(split, profiles, monkeypatch):
    seen = []
    original = SASRecKD.loss_terms

    def noted(model, loss_rec, loss_distil, alpha):
        rec, distil = original(model, loss_rec, loss_distil, alpha)
        seen.append((round(float(rec.detach() / loss_rec.detach()), 5), distil is not None))
        return rec, distil

    monkeypatch.setattr(SASRecKD, "loss_terms", noted)
    choice = distill_spec(schedule="alternate-batches", alternate_every=3, distil_epochs=2)
    _fit(split, student_spec("SASRec", choice, epochs=3), profiles)
    n = len(seen) // 3
    want = [(0.5, True) if k % 3 == 0 and k < 2 * n else (1.0, False) for k in range(len(seen))]
    assert seen == want


def test_fine_tune_last_ends_phase_one_by_patience_and_then_takes_its_epochs(split, profiles):
    choice = distill_spec(schedule="fine-tune-last", fine_tune_epochs=4)
    spec = student_spec("GRU4Rec", choice, epochs=200, stopping_step=3, learning_rate=0.05)
    result, _ = _fit(split, spec, profiles)
    phases = [r["phase"] for r in result.history]
    values = [r["valid_ndcg@10"] for r in result.history]
    n = phases.count("distil")
    assert phases == ["distil"] * n + ["fine-tune"] * 4
    assert n == 1 + int(np.argmax(values[:n])) + 3  # three epochs without a better one
    assert result.stopped_early
    assert result.best_epoch == 1 + int(np.argmax(values))


def test_fine_tune_last_without_a_plateau_is_the_fixed_budget(split, profiles):
    choice = distill_spec(schedule="fine-tune-last", fine_tune_epochs=2)
    result, _ = _fit(split, student_spec("SASRec", choice, epochs=5, stopping_step=50), profiles)
    assert [r["phase"] for r in result.history] == ["distil"] * 3 + ["fine-tune"] * 2
    same = distill_spec(distil_epochs=3)
    other, _ = _fit(split, student_spec("SASRec", same, epochs=5, stopping_step=50), profiles)
    assert [r["loss"] for r in result.history] == [r["loss"] for r in other.history]


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimiser_is_forgotten_once_when_distillation_is_over(split, profiles, reset, monkeypatch):
    built = []
    original = Run._new_optimizer

    def noted(run):
        built.append(getattr(run, "_epochs_seen", 0))
        return original(run)

    def train(run, epoch, schedule):
        run._epochs_seen = epoch
        return epoch_of(run, epoch, schedule)

    epoch_of = Run.train_epoch
    monkeypatch.setattr(Run, "_new_optimizer", noted)
    monkeypatch.setattr(Run, "train_epoch", train)
    choice = distill_spec(schedule="alternate-epochs", distil_epochs=3, reset_optimizer=reset)
    result, _ = _fit(split, student_spec("SASRec", choice, epochs=6), profiles)
    assert [r["phase"] for r in result.history] == ["distil", "fine-tune", "distil", *["fine-tune"] * 3]
    assert built == ([0, 4] if reset else [0])


def test_a_reset_changes_only_what_comes_after(split, profiles):
    kept, fresh = (
        _fit(split, student_spec("SASRec", distill_spec(reset_optimizer=r), epochs=4), profiles)[0].history
        for r in (False, True)
    )
    assert [r["loss"] for r in kept[:2]] == [r["loss"] for r in fresh[:2]]
    assert kept[3]["loss"] != fresh[3]["loss"]
