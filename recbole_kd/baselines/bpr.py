"""BPR: matrix factorisation with a pairwise loss (Rendle et al., UAI 2009)."""

from __future__ import annotations

import numpy as np
from recbole.model.general_recommender import bpr as upstream
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.baselines.trained import SequenceTrained, pairwise_loss, users_of
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout


class BPR(SequenceTrained, upstream.BPR):
    """score(u, i) = p_u . q_i; the order of the history does not matter.

    Every train interaction is a positive once per epoch. A user who was never trained on keeps the initial
    vector, so under a temporal split new users get noise.
    """

    shift = False
    packed = True

    def states(self, batch: Batch, dropout: ByteDropout | None, at: Tensor | None) -> Tensor:
        """User vectors."""
        return F.embedding(users_of(batch, at), self.user_embedding.weight)

    def rec_loss(self, state: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
        """Pairwise, one negative."""
        return pairwise_loss(state, self.item_embedding.weight, target, rng)
