"""nn.GRU, layer by layer, so that every layer's output can be distilled."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gru_layers(gru: nn.GRU, x: Tensor) -> list[Tensor]:
    """Run a unidirectional ``nn.GRU`` without biases and keep each layer's output.

    Parameters
    ----------
    gru : nn.GRU
        As RecBole's GRU4Rec builds it: ``bias=False, batch_first=True``, no dropout between layers.
    x : float [B, L, E]

    Returns
    -------
    list of num_layers tensors [B, L, H]
    """
    outputs = []
    state = x.new_zeros(1, x.shape[0], gru.hidden_size)
    for k in range(gru.num_layers):
        weights = [getattr(gru, f"weight_ih_l{k}"), getattr(gru, f"weight_hh_l{k}")]
        x = torch.gru(x, state, weights, False, 1, 0.0, gru.training, False, True)[0]
        outputs.append(x)
    return outputs
