"""RecBole's ``TransformerEncoder`` on packed sequences, with the same parameters and fewer passes.

One matrix product for query, key and value, fused attention, byte dropout. In evaluation mode the result
equals RecBole's own forward (tests/models/test_against_recbole.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.models.dropout import ByteDropout

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def embed(model: Any, item_seq: Tensor, position: Tensor, dropout: ByteDropout | None) -> Tensor:
    """Item plus position embedding, LayerNorm, dropout: the input of the first block, [B, L, H]."""
    item_emb = F.embedding(item_seq, model.item_embedding.weight, padding_idx=0)
    x = model.LayerNorm(item_emb + F.embedding(position, model.position_embedding.weight))
    return dropout(x, model.hidden_dropout_prob) if dropout else x


def encode(model: Any, x: Tensor, mask: Tensor, dropout: ByteDropout | None) -> list[Tensor]:
    """Run every block.

    Parameters
    ----------
    model : RecBole SASRec or BERT4Rec
    x : float [B, L, H]
        Output of :func:`embed`.
    mask : bool [B, 1, L, L]
        True where a position (third axis) may attend to another (fourth).
    dropout : ByteDropout or None
        None in evaluation.

    Returns
    -------
    list of n_layers tensors [B, L, H], outputs of block 1, 2, ...
    """
    outputs = []
    for layer in model.trm_encoder.layer:
        x = _block(layer, x, mask, dropout, model)
        outputs.append(x)
    return outputs


def encode_at(model: Any, x: Tensor, mask: Tensor, at: Tensor) -> Tensor:
    """Output of the last block at one position per row, in evaluation.

    The last block answers one query per row and feeds one vector forward, which saves two thirds of it.

    Parameters
    ----------
    x, mask : as in :func:`encode`
    at : int64 [B]

    Returns
    -------
    float [B, H]
    """
    *below, top = model.trm_encoder.layer
    for layer in below:
        x = _block(layer, x, mask, None, model)
    row = torch.arange(len(x), device=x.device)
    attention: Any = top.multi_head_attention
    heads, size = attention.num_attention_heads, attention.attention_head_size

    def split(projected: Tensor) -> Tensor:
        return projected.view(len(x), -1, heads, size).transpose(1, 2)

    queried = x[row, at][:, None]
    query, key, value = split(attention.query(queried)), split(attention.key(x)), split(attention.value(x))
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[row, :, at][:, :, None])
    y = attention.LayerNorm(attention.dense(context.transpose(1, 2).flatten(2)) + queried)
    return _feed_forward(top.feed_forward, y, None, model)[:, 0]


def _block(layer: nn.Module, x: Tensor, mask: Tensor, dropout: ByteDropout | None, model: Any) -> Tensor:
    attention: Any = layer.multi_head_attention
    context = _attend(attention, x, mask, dropout, model.attn_dropout_prob)
    y = attention.dense(context)
    y = dropout.residual(y, x, model.hidden_dropout_prob) if dropout else y + x
    return _feed_forward(layer.feed_forward, attention.LayerNorm(y), dropout, model)


def _feed_forward(feed_forward: Any, y: Tensor, dropout: ByteDropout | None, model: Any) -> Tensor:
    z = _ACTIVATIONS[model.hidden_act](feed_forward.dense_1(y))
    z = feed_forward.dense_2(z)
    z = dropout.residual(z, y, model.hidden_dropout_prob) if dropout else z + y
    out: Tensor = feed_forward.LayerNorm(z)
    return out


def _attend(attention: Any, x: Tensor, mask: Tensor, dropout: ByteDropout | None, p: float) -> Tensor:
    b, length, h = x.shape
    heads, size = attention.num_attention_heads, attention.attention_head_size
    projections = (attention.query, attention.key, attention.value)
    weight = torch.cat([m.weight for m in projections])
    bias = torch.cat([m.bias for m in projections])
    qkv = F.linear(x, weight, bias).view(b, length, 3, heads, size).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    if dropout is None or p <= 0:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        scores = (query @ key.transpose(-1, -2)) * (1.0 / math.sqrt(size))
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        context = dropout(weights, p) @ value
    return context.transpose(1, 2).reshape(b, length, h)
