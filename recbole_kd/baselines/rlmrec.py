"""Item side of RLMRec's contrastive alignment (Ren et al., WWW 2024, arXiv 2310.15950)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.system import Read, System, mlp, required
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.side import SideInputs


class RLMRecItems(System):
    """L_rec - weight * mean_{i in B} log (exp(c_ii / tau) / sum_{j in B} exp(c_ij / tau)).

    c_ij = cos(e_i, m(t_j)), t_j the frozen text vector, m two linear maps with LeakyReLU between, as in the
    authors' code. B: the items of the batch (once each) and as many drawn ones, as far as they have a text;
    the authors contrast positive and negative items of the batch apart. The user side is the objective
    ``infonce`` with a teacher. Texts are read while training only: what is left is the plain backbone.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Map from text to the item space, and the stream that items are drawn from."""
        model: Any = self
        texts = required(side.items, "item", "rlmrec-items")
        n_in, n_out = texts.shape[1], model.item_embedding.weight.shape[1]
        mapped = mlp([n_in, (n_in + n_out) // 2, n_out], nn.LeakyReLU)
        self.system = nn.ModuleDict({"text": Read(texts), "map": mapped})
        self._contrast = float(params["weight"]), float(params["temperature"])
        self._drawn = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))

    def carried_state(self) -> dict[str, Any]:
        """The backbone's, and the state of the stream that items are drawn from."""
        below: dict[str, Any] = super().carried_state()  # type: ignore[misc]
        return {**below, "drawn": self._drawn.get_state()}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`carried_state` gave."""
        super().load_carried_state(state)  # type: ignore[misc]
        self._drawn.set_state(state["drawn"])

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Losses of the backbone, the first with the contrast added."""
        rec, of_teacher = super().sequence_losses(batch, dropout, rng, distil=distil)  # type: ignore[misc]
        weight, _ = self._contrast
        return rec + weight * self.item_contrast(self._items(batch)), of_teacher

    def _items(self, batch: Batch) -> Tensor:
        model: Any = self
        own = torch.cat([batch.item_seq.flatten(), batch.target.flatten()]).unique()
        drawn = torch.randint(1, model.n_items, (len(own),), generator=self._drawn).to(own.device)
        items = torch.cat([own, drawn]).unique()
        known: Any = self.system
        items = items[(items > 0) & (items < model.n_items)]
        return items[known["text"].known[items]]

    def item_contrast(self, items: Tensor) -> Tensor:
        """Contrast among ``items`` int64 [N], all different and with a text; 0 without any."""
        model: Any = self
        system: Any = self.system
        if not len(items):
            return model.item_embedding.weight.new_zeros(())
        own = F.normalize(F.embedding(items, model.item_embedding.weight), dim=1)
        said = F.normalize(system["map"](system["text"].vectors[items]), dim=1)
        logits = own @ said.t() / self._contrast[1]
        return F.cross_entropy(logits, torch.arange(len(items), device=items.device))
