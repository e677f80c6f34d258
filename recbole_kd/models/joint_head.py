"""Two objectives in one distillation term: a teacher's lists and its vectors."""

from __future__ import annotations

from torch import Tensor, nn

from recbole_kd.models.head import DistillationHead
from recbole_kd.models.list_head import ListHead


class JointHead(nn.Module):
    """L_distil = L_lists + weight * L_vectors, as in DE-RRD (Kang et al., CIKM 2020).

    Parameters
    ----------
    lists : ListHead
    vectors : DistillationHead
    weight : float
    """

    def __init__(self, lists: ListHead, vectors: DistillationHead, weight: float) -> None:
        super().__init__()
        self.lists, self.vectors, self.weight = lists, vectors, weight

    @property
    def known(self) -> Tensor:
        """Users whom at least one of the two teaches, bool [n_users]."""
        return (self.lists.known > 0) | (self.vectors.known > 0)

    def anneal(self, progress: float) -> None:
        """Tell the vectors' head which share, in [0, 1], of distillation is over."""
        self.vectors.anneal(progress)
