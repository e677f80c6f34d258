"""The head of objectives over ranked lists: the student's scores against a teacher's list per user."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.models.batch import Batch
from recbole_kd.objectives import get_objective
from recbole_kd.objectives.ranked import RankedBatch
from recbole_kd.training.spec import DistillSpec


class ListHead(nn.Module):
    """Loss of item scores against teacher lists; has no parameters.

    Parameters
    ----------
    spec : DistillSpec
        Objective of kind ``lists``. Layer, pooling, projection and target have no say: the student's scores
        are its serving ones.
    items : int64 [n_users, K]
        Lists by user id, best first; 0 where a list is shorter.
    score : float [n_users, K]
    weight : bool or float, [n_users] or [n_users, 1]
        0 where there is no list, else 1 or the confidence in it.
    n_items : int
        Padding included.
    seed : int
        Of the items that are drawn from outside the lists, a stream of its own.
    """

    items: Tensor
    score: Tensor
    known: Tensor

    def __init__(
        self, spec: DistillSpec, items: Tensor, score: Tensor, weight: Tensor, n_items: int, seed: int
    ) -> None:
        super().__init__()
        objective = get_objective(spec.objective)
        self._objective = objective.bind(spec.objective_args)
        self._draw = {name: spec.objective_args[name] for name in objective.setup}
        self._n_items, self._all = n_items, spec.coverage == "all"
        self._generator = torch.Generator().manual_seed(seed)
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("score", score.float(), persistent=False)
        self.register_buffer("known", weight.view(len(items)), persistent=False)

    def carried_state(self) -> dict[str, Any]:
        """State of the stream of what is drawn."""
        return {"stream": self._generator.get_state()}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put the stream where :meth:`carried_state` found it."""
        self._generator.set_state(state["stream"])

    def forward(self, scores: Tensor, user: Tensor) -> Tensor:
        """Distillation loss of scores [P, n_items] of users [P]."""
        lists = self._kept(self.items[user], self.score[user])
        weight = self.known[user]
        loss: Tensor = self._objective(scores, lists, weight)
        return loss * weight.sum() / len(user) if self._all else loss

    def _kept(self, items: Tensor, score: Tensor) -> RankedBatch:
        """Draw what the objective draws anew at every step."""
        others = self._others(items, int(self._draw.get("others") or 0))
        keep = self._draw.get("interesting")
        if keep is None or keep >= items.shape[1]:
            return RankedBatch(items, score, others)
        # Gumbel's trick: the k largest are a draw without replacement, P proportional to e^{-place / decay}.
        place = torch.arange(items.shape[1], dtype=torch.float32)
        uniform = torch.rand(items.shape, generator=self._generator).clamp_min(1e-20)
        key = (-place / self._draw["interesting_decay"] - (-uniform.log()).log()).to(items.device)
        chosen = key.masked_fill(items == 0, float("-inf")).topk(keep, 1).indices.sort(1).values
        return RankedBatch(items.gather(1, chosen), score.gather(1, chosen), others)

    def _others(self, items: Tensor, n: int) -> Tensor:
        """Items drawn evenly [P, n]; one that is on the list is left out (0)."""
        drawn = torch.randint(1, self._n_items, (len(items), n), generator=self._generator).to(items.device)
        return drawn * ~(drawn[:, :, None] == items[:, None, :]).any(2)


def last_prediction(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row and column of the last position of every piece at which the student predicts, int64 [P] each.

    The last item of next-item models, as when serving. A masked-item model predicts only where an item is
    hidden: there it is the last hidden position, whose state is made like the serving one (the mask token in
    place of an item), with the difference that later items of the piece may be seen. Rows without any
    target (RecBole's prefix mode) give their last item.
    """
    carries = batch.target > 0
    real = batch.segment < len(batch.length)
    where = real & (carries | ~carries.any())
    row, column = torch.nonzero(where, as_tuple=True)
    piece = batch.segment[row, column]
    # Ascending in (row, column): the last write of a piece is its last position.
    last = torch.zeros(len(batch.length), dtype=torch.int64, device=row.device)
    last = last.scatter_reduce(0, piece, torch.arange(len(row), device=row.device), "amax")
    return row[last], column[last]


def item_scores(state: Tensor, items: Tensor, bias: Tensor | None) -> Tensor:
    """``state @ items.T + bias``, [P, n_items]: one row per piece, never one per position."""
    scores = state @ items.t()
    return scores if bias is None else scores + bias
