"""UniSRec: universal sequence representations from item texts (Hou et al., KDD 2022, arXiv 2206.05941)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.pretraining import load_learned
from recbole_kd.baselines.system import ItemTableSystem, Read, required
from recbole_kd.errors import SpecError
from recbole_kd.models.side import SideInputs

ENCODER = ("position_embedding.", "LayerNorm.", "trm_encoder.")
"""Modules of the sequence encoder that pre-training learns, besides the adaptor."""
ADAPTOR = "system.adaptor."
SETTINGS = ("inductive", "transductive")
_NOISE_FLOOR = 1e-2
_SPREAD = 0.02


class WhitenedExperts(nn.Module):
    """Parametric whitening in a mixture of experts: v = sum_e g_e (x - b_e) W_e.

    g = softmax(x W_g + epsilon * (softplus(x W_n) + 0.01)), epsilon ~ N(0, 1) while training and 0 after.
    Gate and noise begin at 0, W_e at N(0, 0.02), b_e at 0, as in the authors' code.

    Parameters
    ----------
    n_in, n_out, n_experts : int
    dropout : float
        Of x, while training; one mask for all experts.
    """

    def __init__(self, n_in: int, n_out: int, n_experts: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_experts, n_in, n_out) * _SPREAD)
        self.bias = nn.Parameter(torch.zeros(n_experts, n_in))
        self.gate = nn.Parameter(torch.zeros(n_in, n_experts))
        self.noise = nn.Parameter(torch.zeros(n_in, n_experts))
        self._dropout = dropout
        # Noise and dropout come from a stream of their own, never from torch's global one.
        self._draw = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))

    def reseed(self, seed: int) -> None:
        """Begin the stream of noise and dropout anew."""
        self._draw.manual_seed(seed)

    def carried_state(self) -> dict[str, Any]:
        """State of the stream of noise and dropout."""
        return {"stream": self._draw.get_state()}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put the stream where :meth:`carried_state` found it."""
        self._draw.set_state(state["stream"])

    def gates(self, x: Tensor) -> Tensor:
        """Weights of the experts, [N, n_experts]."""
        logits = x @ self.gate
        if self.training:
            epsilon = torch.randn(logits.shape, generator=self._draw).to(x.device)
            logits = logits + epsilon * (F.softplus(x @ self.noise) + _NOISE_FLOOR)
        return logits.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt text vectors [N, n_in] to [N, n_out]."""
        n_experts, n_in, n_out = self.weight.shape
        gates = self.gates(x)
        if self.training and self._dropout > 0:
            keep = torch.rand(x.shape, generator=self._draw) >= self._dropout
            x = x * (keep.to(x.device) / (1 - self._dropout))
        flat = self.weight.transpose(0, 1).reshape(n_in, n_experts * n_out)
        shift = torch.einsum("ei,eio->eo", self.bias, self.weight)
        views = (x @ flat).view(len(x), n_experts, n_out) - shift
        return (gates[:, None] @ views).squeeze(1)


def text_inputs(texts: Tensor) -> Tensor:
    """Text vectors scaled to a root mean square of 1 per item; rows of zeros stay.

    The encoder of the paper gives entries of about that size, a sentence encoder vectors of length 1, with
    which the linear maps would learn many times slower at the same learning rate.
    """
    return F.normalize(texts.float(), dim=1) * math.sqrt(texts.shape[1])


class UniSRec(ItemTableSystem):
    """Items are texts through :class:`WhitenedExperts`; sequences go through SASRec's encoder.

    ``inductive``: v_i = MoE(x_i). ``transductive``: v_i = MoE(x_i) + e_i, e the id table. Next items are
    predicted by softmax_i cos(s, v_i) / tau over the catalogue. Adaptor and encoder begin where pre-training
    (:mod:`recbole_kd.baselines.unisrec_pretraining`) left them, if there was one; then ``freeze_encoder``
    keeps the encoder's positions and blocks as they are, as in the paper.

    The table is computed once after training: known items need nothing when serving, new ones their text.
    """

    backbones = ("SASRec",)

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Adaptor, id table and what pre-training learned."""
        model: Any = self
        if params["setting"] not in SETTINGS:
            raise SpecError(f"params.setting: {params['setting']!r} is not one of {', '.join(SETTINGS)}")
        texts = required(side.items, "item", "unisrec")
        table = model.item_embedding.weight
        sizes = texts.shape[1], table.shape[1], int(params["n_experts"])
        adaptor = WhitenedExperts(*sizes, float(params["adaptor_dropout"]))
        self.system = nn.ModuleDict({"text": Read(text_inputs(texts)), "adaptor": adaptor})
        self.temperature = float(params["temperature"])
        if params["setting"] == "inductive":
            table.requires_grad_(False)
            table.data.zero_()
        if side.pretrained is None:
            return
        load_learned(model, dict(side.pretrained), (*ENCODER, ADAPTOR))
        if params["freeze_encoder"]:
            for part in (model.position_embedding, model.trm_encoder):
                part.requires_grad_(False)

    def fused_items(self, items: Tensor) -> Tensor:
        """Id (zero if inductive) plus adapted text; items without a text are their id, padding is 0."""
        system: Any = self.system
        read = system["text"]
        fused: Tensor = items + system["adaptor"](read.vectors) * read.known[:, None]
        padding = torch.arange(len(fused), device=fused.device) == 0
        return fused.masked_fill(padding[:, None], 0.0)

    def final(self, x: Tensor) -> Tensor:
        """States of unit length."""
        return F.normalize(super().final(x), dim=-1)  # type: ignore[misc]

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """v_i / (|v_i| tau): an inner product with a unit state is the cosine over tau."""
        items = self.item_weights()
        nothing = (items == 0).all(1, keepdim=True)
        # At zero the gradient of a normalised vector has no bound.
        return F.normalize(items, dim=1).masked_fill(nothing, 0.0) / self.temperature, None
