"""Item table initialised from text: LLM2BERT4Rec (Harte et al., RecSys 2023, arXiv 2309.09261)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recbole_kd.baselines.system import System, principal_components, required
from recbole_kd.models.side import SideInputs


class TextInit(System):
    """E_0 = PCA_d(text vectors), then trained as any item table.

    The components are scaled by one number so that the table has the standard deviation of the random
    initialisation that it replaces, times ``scale``. Items without a text keep their random row. What is left
    after training is the plain backbone: nothing is needed when serving.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Overwrite the item embeddings; there is nothing else to a text initialisation."""
        model: Any = self
        texts = required(side.items, "item", "text-init")
        self.system = nn.Module()
        with torch.no_grad():
            initialise_from_text(model.item_embedding.weight[: model.n_items], texts, float(params["scale"]))


def initialise_from_text(table: torch.Tensor, texts: torch.Tensor, scale: float) -> None:
    """Write the scaled principal components of ``texts`` into the rows of ``table`` that have a text."""
    known = (texts != 0).any(1)
    components = principal_components(texts, table.shape[1])
    spread = components[known].std() if int(known.sum()) > 1 else components.new_zeros(())
    if spread > 0:
        factor = scale * table[1:].std() / spread
        table[known] = components[known].to(table.device) * factor
