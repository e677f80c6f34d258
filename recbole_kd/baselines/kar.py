"""KAR: open-world knowledge through a hybrid-expert adaptor (Xi et al., RecSys 2024, arXiv 2306.10933)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.system import ItemTableSystem, Read, mlp, required
from recbole_kd.models.batch import Batch
from recbole_kd.models.side import SideInputs


class HybridExpertAdaptor(nn.Module):
    """a = sum_e softmax(G x)_e expert_e(x), over shared and dedicated experts.

    Parameters
    ----------
    sizes : (int, int)
        Widths of preference (user) and factual (item) knowledge; both are first mapped to ``hidden``.
    shared, dedicated : int
        Experts of each sort.
    hidden, out : int
    """

    def __init__(self, sizes: tuple[int, int], shared: int, dedicated: int, hidden: int, out: int) -> None:
        super().__init__()
        self.enter = nn.ModuleList([nn.Linear(n, hidden) for n in sizes])
        self.shared = nn.ModuleList([mlp([hidden, hidden, out]) for _ in range(shared)])
        self.dedicated = nn.ModuleList(
            [nn.ModuleList([mlp([hidden, hidden, out]) for _ in range(dedicated)]) for _ in sizes]
        )
        self.gate = nn.ModuleList([nn.Linear(hidden, shared + dedicated, bias=False) for _ in sizes])

    def forward(self, x: Tensor, kind: int) -> Tensor:
        """Adapt knowledge of one kind.

        Parameters
        ----------
        x : float [N, D]
        kind : int
            0 for users, 1 for items.

        Returns
        -------
        float [N, out]
        """
        x = F.gelu(self.enter[kind](x))
        dedicated: Any = self.dedicated[kind]
        views = torch.stack([expert(x) for expert in (*self.shared, *dedicated)], 1)  # [N, E, out]
        weight = torch.softmax(self.gate[kind](x), 1)
        return (weight[:, None] @ views).squeeze(1)


class KAR(ItemTableSystem):
    """Item vectors e_i + P_i a(t_i) at input and output, plus P_u a(z_u) at every input position.

    KAR concatenates the adapted knowledge to the fields of a click model; a concatenation followed by the
    first linear map is a sum of linear maps, which is what a sequence model's input layer can take. Trained
    with the backbone's loss instead of click cross-entropy. Profiles are read when serving. Users without a
    profile and items without a text get nothing added.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Adaptor and the two projections into the item space."""
        model: Any = self
        users = required(side.users, "profile", "kar")
        items = required(side.items, "item", "kar")
        dim, hidden = model.item_embedding.weight.shape[1], int(params["hidden"])
        adaptor = HybridExpertAdaptor(
            (users.shape[1], items.shape[1]),
            int(params["shared_experts"]),
            int(params["dedicated_experts"]),
            hidden,
            hidden,
        )
        outs = {name: nn.Linear(hidden, dim, bias=False) for name in ("user_out", "item_out")}
        for layer in outs.values():
            layer.weight.data *= float(params["init_scale"])
        self.system = nn.ModuleDict(
            {"profiles": Read(users), "texts": Read(items), "adaptor": adaptor, **outs}
        )

    def fused_items(self, items: Tensor) -> Tensor:
        """Id plus adapted text."""
        system: Any = self.system
        read = system["texts"]
        added = system["item_out"](system["adaptor"](read.vectors, 1))
        fused: Tensor = items + added * read.known[:, None]
        return fused

    def input_vectors(self, batch: Batch) -> Tensor:
        """Item vectors plus the user's adapted profile on every real position."""
        x: Tensor = super().input_vectors(batch)  # type: ignore[misc]
        system: Any = self.system
        read = system["profiles"]
        user = batch.user
        added = system["user_out"](system["adaptor"](read.vectors[user], 0)) * read.known[user][:, None]
        padded = torch.cat([added, added.new_zeros(1, added.shape[1])])
        return x + padded[batch.segment.clamp_max(len(added))]
