"""Train / valid / test, the same for every method; protocols are entries of ``PROTOCOLS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.sample import sample_train
from recbole_kd.data.scratch import Scratch
from recbole_kd.data.spec import SplitSpec
from recbole_kd.data.types import Dataset, EvalSet, IntArray, Sequences, Split
from recbole_kd.errors import DataError, SpecError
from recbole_kd.strict import digest

Parts = tuple[Sequences, EvalSet, EvalSet, dict[str, int]]


@dataclass(frozen=True)
class Protocol:
    """A way to split, and the fields of ``SplitSpec`` that change its outcome."""

    make: Callable[[Dataset, SplitSpec], Parts]
    uses: tuple[str, ...]
    description: str


PROTOCOLS: dict[str, Protocol] = {}


def protocol(name: str, uses: tuple[str, ...], description: str) -> Callable[..., Callable[..., Parts]]:
    """Register a split protocol under ``name``."""

    def register(make: Callable[[Dataset, SplitSpec], Parts]) -> Callable[[Dataset, SplitSpec], Parts]:
        PROTOCOLS[name] = Protocol(make, uses, description)
        return make

    return register


def make_split(dataset: Dataset, spec: SplitSpec) -> Split:
    """Split a dataset.

    Raises
    ------
    SpecError
        Unknown protocol.
    DataError
        Nobody is left to learn from, to validate on or to test on.
    """
    if spec.protocol not in PROTOCOLS:
        raise SpecError(f"split.protocol: '{spec.protocol}' is unknown; use one of {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[spec.protocol]
    train, valid, test, counts = chosen.make(dataset, spec)
    for part, what in ((valid, "validate on"), (test, "test on")):
        if not len(part):
            longest = int(dataset.sequences.lengths.max())
            raise DataError(
                f"dataset {dataset.name}: {spec.protocol} leaves nobody to {what} ({dataset.n_users - 1} "
                f"users, longest history {longest}; all three parts need 4 interactions of one user): "
                "loosen the filter, change split in the dataset YAML or bring longer histories"
            )
    begins = None
    if spec.sample is not None:
        sampled = sample_train(train, spec.sample)
        train, begins, counts = sampled.train, sampled.begins, counts | sampled.counts
    seen = np.bincount(train.items, minlength=dataset.n_items) > 0
    counts = {
        "train_users": len(train),
        "train_interactions": len(train.items),
        "valid_users": len(valid),
        "test_users": len(test),
        "cold_valid_targets": int((~seen[valid.targets]).sum()),
        "cold_test_targets": int((~seen[test.targets]).sum()),
        "items_without_train": int((~seen[1:]).sum()),
    } | counts
    name = {"dataset": dataset.digest, "protocol": spec.protocol}
    name |= parameters(spec)
    return Split(dataset, train, valid, test, digest(name), counts, begins)


def parameters(spec: SplitSpec) -> dict[str, Any]:
    """What changes the outcome of the protocol in use, JSON-ready; what is off is left out."""
    known = spec.canonical()
    uses = (*PROTOCOLS[spec.protocol].uses, "sample")
    return {field: known[field] for field in uses if field in known}


def take(
    sequences: Sequences, rows: IntArray, lengths: IntArray, scratch: Scratch | None = None
) -> Sequences:
    """Return the first ``lengths[j]`` items of row ``rows[j]`` for every j; in a file with ``scratch``."""
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    begin = sequences.offsets[rows] - offsets[:-1]
    if scratch is None:
        items = sequences.items[np.repeat(begin, lengths) + np.arange(offsets[-1])]
        return Sequences(sequences.users[rows], offsets, items)
    items = scratch.empty(int(offsets[-1]), np.int64)
    for some in scratch.ranges(offsets):
        cells = np.arange(offsets[some.start], offsets[some.stop])
        items[cells[0] : cells[-1] + 1] = sequences.items[np.repeat(begin[some], lengths[some]) + cells]
    return Sequences(sequences.users[rows], offsets, items)


def _targets(dataset: Dataset, rows: IntArray, at: IntArray) -> EvalSet:
    """Item ``at[j]`` (0-based) of row ``rows[j]`` is the target, everything before it the history."""
    sequences = dataset.sequences
    targets = np.asarray(sequences.items[sequences.offsets[rows] + at])
    return EvalSet(take(sequences, rows, at, dataset.scratch), targets)


@protocol(
    "leave-one-out",
    (),
    "last item tests, last but one validates, the rest trains; RecBole LS: valid_and_test",
)
def _leave_one_out(dataset: Dataset, spec: SplitSpec) -> Parts:
    """Split as RecBole does: 2-item users only train, 3-item users train and test, 4+ do all."""
    sequences = dataset.sequences
    n = sequences.lengths
    every = np.arange(len(sequences))
    tested, validated = np.flatnonzero(n >= 3), np.flatnonzero(n >= 4)
    train = take(sequences, every, n - (n >= 3) - (n >= 4), dataset.scratch)
    counts = {f"users_with_{k}": int((n == k).sum()) for k in (1, 2, 3)}
    valid = _targets(dataset, validated, n[validated] - 2)
    return train, valid, _targets(dataset, tested, n[tested] - 1), counts


@protocol(
    "temporal",
    ("seed", "quantile", "valid_user_share", "until"),
    "one cut on the global timeline; later users test on their last item, drawn train users validate",
)
def _temporal(dataset: Dataset, spec: SplitSpec) -> Parts:
    """Split at the ``quantile`` of all times (Severin et al., ECIR 2026; arXiv 2408.12008).

    Train users have an event at or before the cut and give those events. Test users have their
    last event after it: target is the last item, history everything before, also past the cut.
    ``valid_user_share`` of the train users with two events before the cut are moved out of train;
    their last item before the cut is the target. Items never trained stay in the catalogue.
    With ``until`` nothing after that share of all interactions is looked at: a model that is trained at
    the cut serves until then.
    """
    if dataset.counts.get("time_is_position"):
        raise DataError(
            f"dataset {dataset.name}: the time column is the position in each user's history, so there is no "
            "global timeline; use protocol: leave-one-out or a file with real times"
        )
    sequences, times = dataset.sequences, dataset.times
    cut = float(np.quantile(times, spec.quantile))
    end = np.inf if spec.until is None else float(np.quantile(times, spec.until))
    n, before = (
        np.add.reduceat((times <= moment).astype(np.int64), sequences.offsets[:-1]) for moment in (end, cut)
    )
    learners = np.flatnonzero(before >= 1)
    eligible = np.flatnonzero(before >= 2)
    drawn = _draw(eligible, round(spec.valid_user_share * len(eligible)), spec.seed)
    trained = np.setdiff1d(learners, drawn)
    later = n > before
    tested = np.flatnonzero(later & (n >= 2))
    counts = {
        "users_before_cut": len(learners),
        "users_with_1_before_cut": len(learners) - len(eligible),
        "test_users_without_history": int((later & (n == 1)).sum()),
        "test_users_not_trained": int((~np.isin(tested, trained)).sum()),
        "interactions_after_cut": int((n - before).sum()),
        "cut_time": int(cut),
    }
    train = take(sequences, trained, before[trained], dataset.scratch)
    valid = _targets(dataset, drawn, before[drawn] - 1)
    return train, valid, _targets(dataset, tested, n[tested] - 1), counts


@protocol(
    "user-holdout",
    ("seed", "holdout"),
    "drawn users are newcomers who reveal their first items and test on the next; the others train, "
    "and validate on their last item",
)
def _user_holdout(dataset: Dataset, spec: SplitSpec) -> Parts:
    """Simulated newcomers.

    A ``share`` of the users with more than ``longest`` interactions is drawn. A newcomer reveals the first
    ``revealed`` items; the next one is the target. With ``learn`` the revealed items are part of train (and a
    profile is written from them); without, the newcomers are in no part but test. Everybody else trains on
    all but the last item, which validates (two items: both train).
    """
    assert spec.holdout is not None
    sequences, n, chosen = dataset.sequences, dataset.sequences.lengths, spec.holdout
    eligible = np.flatnonzero(n > chosen.longest)
    if len(eligible) < 2:
        raise DataError(
            f"dataset {dataset.name}: {len(eligible)} users have more than {chosen.longest} interactions; "
            "lower split.holdout.longest"
        )
    new = _draw(eligible, round(chosen.share * len(eligible)), spec.seed)
    known = np.setdiff1d(np.arange(len(sequences)), new)
    learned = n - (n >= 3)
    learned[new] = chosen.revealed
    trained = np.arange(len(sequences)) if chosen.learn else known
    validated = known[n[known] >= 3]
    counts = {"newcomers": len(new), "known_users": len(known), "long_enough": len(eligible)}
    train = take(sequences, trained, learned[trained])
    valid = _targets(dataset, validated, n[validated] - 1)
    return train, valid, _targets(dataset, new, np.full(len(new), chosen.revealed)), counts


def _draw(rows: IntArray, size: int, seed: int) -> NDArray[np.int64]:
    chosen = np.random.default_rng(seed).choice(rows, size=size, replace=False)
    return np.sort(chosen).astype(np.int64)
