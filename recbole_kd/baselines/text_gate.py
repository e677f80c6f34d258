"""Id and text in one item vector, the text let in by a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.baselines.system import ItemTableSystem, Read, required
from recbole_kd.models.side import SideInputs


class TextGate(ItemTableSystem):
    """e_i = id_i + g_i * a_i, a_i = A t_i, g_i = sigmoid(W [id_i; a_i] + b), * elementwise.

    A gated sum of both views as in gated multimodal units (Arevalo et al., 2017, arXiv 1702.01992). A has no
    bias: an item without a text is its id, and with every text zeroed the model is the plain backbone. The
    table is computed once after training; nothing is needed when serving.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Projection and gate; ``gate_bias`` is where the gate starts before its sigmoid."""
        model: Any = self
        texts = required(side.items, "item", "text-gate")
        table = model.item_embedding.weight
        dim = table.shape[1]
        project = nn.Linear(texts.shape[1], dim, bias=False)
        gate = nn.Linear(2 * dim, dim)
        nn.init.constant_(gate.bias, float(params["gate_bias"]))
        self.system = nn.ModuleDict({"text": Read(texts), "project": project, "gate": gate})
        with torch.no_grad():
            spread = float(project(texts.float())[1:].std())
            if spread > 0:
                project.weight *= float(table[1:].std()) / spread

    def fused_items(self, items: Tensor) -> Tensor:
        """Id plus gated text."""
        system: Any = self.system
        text = system["project"](system["text"].vectors)
        gate = torch.sigmoid(system["gate"](torch.cat([items, text], 1)))
        fused: Tensor = items + gate * text
        return fused
