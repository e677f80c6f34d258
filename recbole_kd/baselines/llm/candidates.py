"""Candidate sets: the best N items of a trained retriever for every evaluated user, and what re-ranking does
to the target's rank.

A set is made by full ranking from the retriever's run (``recbole_kd/benchmark/retriever.py``) and never
looks at the target, unless ``oracle_candidates`` is set. It is kept in ``<results>/cache/candidates`` under
its content address, one row per candidate:

| column | meaning |
|---|---|
| ``split``, ``user`` | "valid" or "test", user token |
| ``place`` | 1..N, the retriever's order; equal scores in order of item ids |
| ``item`` | item token |
| ``slot`` | the candidate's average-tie rank in the retriever's full ranking |
| ``slot_masked`` | the same among items outside of the history; NaN for an item of the history |

**The rule.** Re-ranking permutes the candidates among the slots that they held; all other items stay. So a
target among the candidates takes the slot of its new place, a target that the retriever missed keeps its
rank, and an order that says nothing new gives back the retriever's ranks exactly, ties included. With the
default ``exclude_seen: false`` slots are 1..N but for ties.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd.baselines.llm.spec import CandidatesSpec
from recbole_kd.data.types import Dataset, EvalSet, IntArray, Split
from recbole_kd.errors import StoreError
from recbole_kd.ranking import Ranks, average_tie_rank
from recbole_kd.strict import digest

ScoreRows = Callable[[EvalSet, slice], Tensor]
"""(evaluation set, rows) -> scores of all items [B, n_items]; column 0 is padding."""
Floats = NDArray[np.float64]
# Raised when the same retriever and spec would give other sets.
FORMAT = 1


@dataclass(frozen=True)
class CandidateSets:
    """Candidates of the asked users of one part, in the retriever's order.

    Attributes
    ----------
    part : str
        ``valid`` or ``test``.
    eval_set : EvalSet
        The asked users only: whole histories before the target, and the targets (never for a ranker's eyes).
    items : int64 [n, N]
        Item ids, best first; 0 where a catalogue is smaller than N.
    slots, slots_masked : float64 [n, N]
        Average-tie rank of each candidate among all items, and among those outside of the history (NaN for a
        candidate from the history, unless it is the target); NaN where there is no candidate.
    ranks : Ranks
        The retriever's own, of every asked user's target.
    """

    part: str
    eval_set: EvalSet
    items: IntArray
    slots: Floats
    slots_masked: Floats
    ranks: Ranks

    def __len__(self) -> int:
        return len(self.items)

    @property
    def users(self) -> IntArray:
        """User ids, int64 [n]."""
        return self.eval_set.history.users

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which places hold a candidate, bool [n, N]."""
        return self.items > 0

    def target_places(self) -> IntArray:
        """0-based place of the target, -1 where the retriever missed it, int64 [n]. For measuring only."""
        found = self.items == self.eval_set.targets[:, None]
        return np.where(found.any(1), found.argmax(1), -1)

    def retriever_scores(self) -> Floats:
        """Scores that repeat the retriever's order, ties included, float64 [n, N]."""
        return np.where(self.real, -self.slots, -np.inf)

    def take(self, rows: IntArray) -> CandidateSets:
        """Only some users, by row."""
        return replace(
            self,
            eval_set=self.eval_set.take(rows),
            items=self.items[rows],
            slots=self.slots[rows],
            slots_masked=self.slots_masked[rows],
            ranks=Ranks(self.ranks.rank[rows], self.ranks.rank_masked[rows]),
        )


def sampled_rows(part: EvalSet, n_users: int, max_users: int | None, seed: int) -> IntArray:
    """Rows of the sampled users, ascending. A user's turn depends on the seed alone, so that parts share
    their users and a smaller sample lies within a larger one."""
    rows = np.arange(len(part))
    if max_users is None or max_users >= len(part):
        return rows
    turn = np.random.default_rng(seed).permutation(n_users)
    return np.sort(rows[np.argsort(turn[part.history.users], kind="stable")[:max_users]])


def build_candidates(
    score: ScoreRows, part: EvalSet, name: str, spec: CandidatesSpec, n_users: int, batch_size: int
) -> CandidateSets:
    """Candidates of the sampled users of one part.

    Parameters
    ----------
    score : callable
        The retriever's. It is asked for all rows in batches of ``batch_size``, as when the run was ranked,
        so that its ranks are those of the run to the last bit.
    part : EvalSet
        All evaluated users.
    name : str
        ``valid`` or ``test``.
    """
    rows = sampled_rows(part, n_users, spec.max_users, spec.seed)
    found = []
    for begin in range(0, len(part), batch_size):
        batch = slice(begin, min(begin + batch_size, len(part)))
        here = rows[(rows >= batch.start) & (rows < batch.stop)]
        if len(here):
            scores = score(part, batch).float().cpu()[here - batch.start]
            found.append(_of_scores(scores, part.take(here), spec))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    items, slots, slots_masked, rank, rank_masked = columns
    return CandidateSets(name, part.take(rows), items, slots, slots_masked, Ranks(rank, rank_masked))


def _of_scores(
    scores: Tensor, part: EvalSet, spec: CandidatesSpec
) -> tuple[IntArray, Floats, Floats, NDArray[np.float32], NDArray[np.float32]]:
    """Items, slots and the target's ranks from the scores [B, V] of a batch."""
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    user = np.repeat(np.arange(len(part)), part.history.lengths)
    seen[torch.from_numpy(user), torch.from_numpy(part.history.items)] = True
    target = torch.from_numpy(part.targets)
    ranks = average_tie_rank(scores, target), average_tie_rank(scores, target, seen)
    scores[:, 0] = -torch.inf
    allowed = scores.masked_fill(seen, -torch.inf) if spec.exclude_seen else scores
    # Stable: equal scores in order of item ids, whatever the machine.
    order = allowed.argsort(dim=1, descending=True, stable=True)[:, : _width(spec.top, scores.shape[1])]
    items = order.masked_fill(allowed.gather(1, order) == -torch.inf, 0)
    if spec.oracle_candidates:
        missed = (items != target[:, None]).all(1)
        items[missed, -1] = target[missed]
    competing = scores.masked_fill(seen, -torch.inf)
    competing.scatter_(1, target[:, None], scores.gather(1, target[:, None]))
    held = scores.gather(1, items)
    slots = _average_places(scores, held).masked_fill(items == 0, torch.nan)
    masked = _average_places(competing, held)
    outside = (seen.gather(1, items) & (items != target[:, None])) | (items == 0)
    masked = masked.masked_fill(outside, torch.nan)
    return items.numpy(), slots.numpy(), masked.numpy(), ranks[0].numpy(), ranks[1].numpy()


def _width(top: int, n_items: int) -> int:
    """Columns of a set: N, or the whole catalogue without padding."""
    return min(top, n_items - 1)


def _average_places(scores: Tensor, values: Tensor) -> Tensor:
    """Average-tie rank of ``values`` [B, N] among ``scores`` [B, V], which hold them, float64 [B, N]."""
    ordered = scores.sort(1).values
    above = ordered.shape[1] - torch.searchsorted(ordered, values.contiguous(), right=True)
    equal = ordered.shape[1] - torch.searchsorted(ordered, values.contiguous()) - above
    return 1.0 + above.double() + (equal.double() - 1.0) / 2


def reranked(sets: CandidateSets, scores: Floats) -> Ranks:
    """Full-catalogue ranks of the targets after the candidates were ordered by ``scores`` (the rule above).

    Parameters
    ----------
    scores : float64 [n, N]
        Higher is better, equal scores share their places; what stands where there is no candidate is ignored.
    """
    if scores.shape != sets.items.shape or np.isnan(scores[sets.real]).any():
        raise ValueError(f"a ranker scored {scores.shape}, or NaN, for candidates {sets.items.shape}")
    rank, masked = sets.ranks.rank.copy(), sets.ranks.rank_masked.copy()
    places = sets.target_places()
    for row in np.flatnonzero(places >= 0):
        place = places[row]
        rank[row] = _new_rank(scores[row], sets.slots[row], place)
        masked[row] = _new_rank(scores[row], sets.slots_masked[row], place)
    return Ranks(rank, masked)


def _new_rank(scores: Floats, slots: Floats, place: int) -> float:
    """Mean of the slots that the candidate at ``place`` shares with those of equal score."""
    competes = ~np.isnan(slots)
    better = int((scores[competes] > scores[place]).sum())
    equal = int((scores[competes] == scores[place]).sum())
    return float(np.sort(slots[competes])[better : better + equal].mean())


def candidate_ranks(sets: CandidateSets, scores: Floats) -> NDArray[np.float32]:
    """Average-tie rank of the target among its user's candidates, NaN where it was missed, float32 [n]."""
    places, found = sets.target_places(), np.full(len(sets), np.nan, np.float32)
    for row in np.flatnonzero(places >= 0):
        mine, goal = scores[row][sets.real[row]], scores[row, places[row]]
        found[row] = 1 + (mine > goal).sum() + ((mine == goal).sum() - 1) / 2
    return found


def sets_address(retriever: str, spec: CandidatesSpec, split: Split) -> str:
    """Content address of the candidate sets of a retriever's run."""
    return digest({"format": FORMAT, "retriever": retriever, "spec": spec.sets(), "split": split.digest})


def to_table(sets: CandidateSets, dataset: Dataset, scores: Floats | None = None) -> Any:
    """Rows of one part (see the module), with ``score`` where a ranker gave some."""
    import pyarrow as pa

    row, place = np.nonzero(sets.real)
    columns: dict[str, Any] = {
        "split": pa.array([sets.part] * len(row)).dictionary_encode(),
        "user": pa.array(dataset.user_tokens[sets.users[row]].astype(str), pa.string()).dictionary_encode(),
        "place": pa.array(place + 1, pa.int32()),
        "item": pa.array(dataset.item_tokens[sets.items[row, place]].astype(str), pa.string()),
        "slot": pa.array(sets.slots[row, place], pa.float64()),
        "slot_masked": pa.array(sets.slots_masked[row, place], pa.float64()),
    }
    if scores is not None:
        columns["score"] = pa.array(scores[row, place], pa.float64())
    return pa.table(columns)


def encode_sets(
    parts: Mapping[str, CandidateSets],
    dataset: Dataset,
    said: Mapping[str, Any],
    more: Mapping[str, str] | None = None,
) -> bytes:
    """The file of candidate sets; ``said`` (retriever, spec) and ``more`` go into its metadata."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([to_table(sets, dataset) for sets in parts.values()]).unify_dictionaries()
    ranks = {
        name: {"rank": sets.ranks.rank.tolist(), "rank_masked": sets.ranks.rank_masked.tolist()}
        for name, sets in parts.items()
    }
    meta = {"recbole_kd": json.dumps({"format": FORMAT, **said}), "ranks": json.dumps(ranks), **(more or {})}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(meta), buffer, compression="zstd")
    return buffer.getvalue()


def read_sets(path: Path, split: Split) -> dict[str, CandidateSets]:
    """Read the file of :func:`encode_sets`.

    Raises
    ------
    StoreError
        It is damaged, or of another split.
    """
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        meta = {key: json.loads(table.schema.metadata[key.encode()]) for key in ("recbole_kd", "ranks")}
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error
    frame = table.to_pandas()
    user_id = {str(token): i for i, token in enumerate(split.dataset.user_tokens)}
    item_id = {str(token): i for i, token in enumerate(split.dataset.item_tokens)}
    try:
        users = frame["user"].astype(str).map(user_id).to_numpy(np.int64)
        items = frame["item"].astype(str).map(item_id).to_numpy(np.int64)
    except ValueError as error:
        raise StoreError(f"{path}: names a user or item that this dataset lacks; delete it") from error
    shape, found = _width(int(meta["recbole_kd"]["top"]), split.dataset.n_items), {}
    for name in meta["ranks"]:
        whole: EvalSet = getattr(split, name)
        mine = (frame["split"].astype(str) == name).to_numpy()
        rows = np.flatnonzero(np.isin(whole.history.users, users[mine]))
        row = np.searchsorted(whole.history.users[rows], users[mine])
        place = frame["place"].to_numpy()[mine] - 1
        ids = np.zeros((len(rows), shape), np.int64)
        ids[row, place] = items[mine]
        slots = {}
        for column in ("slot", "slot_masked"):
            slots[column] = np.full(ids.shape, np.nan)
            slots[column][row, place] = frame[column].to_numpy()[mine]
        ranks = (np.asarray(meta["ranks"][name][key], np.float32) for key in ("rank", "rank_masked"))
        found[name] = CandidateSets(
            name, whole.take(rows), ids, slots["slot"], slots["slot_masked"], Ranks(*ranks)
        )
    return found
