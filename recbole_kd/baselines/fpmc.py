"""FPMC: factorised personalised Markov chains (Rendle et al., WWW 2010)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.baselines.trained import SequenceTrained, pairwise_loss, users_of
from recbole_kd.models import upstream
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout


class FPMC(SequenceTrained, upstream.FPMC):
    """score(u, l, i) = <UI_u, IU_i> + <LI_l, IL_i>, l the last item (baskets of one item, as RecBole)."""

    packed = True

    def states(self, batch: Batch, dropout: ByteDropout | None, at: Tensor | None) -> Tensor:
        """[UI_u; LI_l], so that one product with the item table gives both terms."""
        if at is None:
            last = batch.item_seq[batch.target > 0]
        else:
            last = batch.item_seq.gather(1, at[:, None]).squeeze(1)
        user = F.embedding(users_of(batch, at), self.UI_emb.weight)
        return torch.cat([user, F.embedding(last, self.LI_emb.weight)], 1)

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """[IU; IL]."""
        return torch.cat([self.IU_emb.weight, self.IL_emb.weight], 1), None

    def rec_loss(self, state: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
        """Pairwise, one negative (the paper's S-BPR)."""
        return pairwise_loss(state, self.item_table()[0], target, rng)
