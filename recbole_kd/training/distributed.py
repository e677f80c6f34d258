"""One large training on several processes: every step's rows are dealt out, gradients are summed.

All processes draw the same batches and masks from the same streams, so no data travels but the gradients, and
the sum over the processes is the gradient of one process with the same global batch. No checkpoints are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch
from recbole_kd.training.spec import StudentSpec


@dataclass(frozen=True)
class Shards:
    """This process's part of every step.

    Attributes
    ----------
    rank : int
        From 0.
    world : int
        Number of processes.
    """

    rank: int
    world: int

    @classmethod
    def of_group(cls) -> Shards:
        """Of the process group that is initialised (``torchrun``)."""
        return cls(dist.get_rank(), dist.get_world_size())

    def check(self, spec: StudentSpec) -> None:
        """Refuse what is no sum over rows.

        Raises
        ------
        SpecError
        """
        if spec.distill is not None or spec.system is not None:
            raise SpecError("distributed: a teacher or a system needs whole batches; train a plain backbone.")
        if spec.train.loss is not None and spec.train.loss.name == "in-batch":
            raise SpecError("distributed: in-batch negatives would be those of a part; use sampled-softmax.")

    def take(self, batch: Batch) -> tuple[Batch, float]:
        """Rows of this process, and their share of the batch's targets.

        Parameters
        ----------
        batch : Batch
            Prepared.
        """
        rows = slice(self.rank, None, self.world)
        grids = ("item_seq", "target", "position", "segment")
        part = replace(batch, **{name: getattr(batch, name)[rows] for name in grids})
        total = int((batch.target > 0).sum())
        return part, int((part.target > 0).sum()) / max(1, total)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes, in one message."""
        weights = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights])
        dist.all_reduce(flat)
        for weight, part in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        value = value.clone()
        dist.all_reduce(value)
        return value
