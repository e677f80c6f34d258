"""Frozen item text with a learned adapter in place of item ids (as in UniSRec's inductive setting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.baselines.system import ItemTableSystem, Read, mlp, required
from recbole_kd.models.side import SideInputs


class TextAdapter(ItemTableSystem):
    """e_i = W_2 gelu(W_1 t_i + b_1) + b_2 (``n_layers`` linear maps), t_i frozen; no id embedding at all.

    The table is computed once after training, so that known items need nothing when serving, and a new item
    needs only its text. Items without a text share one vector.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Adapter from text to the item space; id rows are switched off."""
        model: Any = self
        texts = required(side.items, "item", "text-adapter")
        table = model.item_embedding.weight
        inner = [int(params["hidden"])] * (int(params["n_layers"]) - 1)
        read = Read(nn.functional.normalize(texts.float(), dim=1))
        adapter = mlp([texts.shape[1], *inner, table.shape[1]])
        self.system = nn.ModuleDict({"text": read, "adapter": adapter})
        last: Any = adapter[-1]
        match_spread(last, self.fused_items(table[: model.n_items]), float(table.detach()[1:].std()))
        if len(table) == model.n_items:
            table.requires_grad_(False)
        table.data[: model.n_items] = 0

    def fused_items(self, items: Tensor) -> Tensor:
        """Adapter of every text; padding stays 0."""
        system: Any = self.system
        fused: Tensor = system["adapter"](system["text"].vectors)
        padding = torch.arange(len(fused), device=fused.device) == 0
        return fused.masked_fill(padding[:, None], 0.0)


def match_spread(last: nn.Linear, produced: Tensor, wanted: float) -> None:
    """Scale a last layer so that what it produces has the standard deviation ``wanted``."""
    spread = float(produced.detach()[1:].std())
    if spread > 0:
        last.weight.data *= wanted / spread
        last.bias.data *= wanted / spread
