"""RecBole's ``TransformerEncoder`` on packed sequences, with the same parameters and fewer passes.

One matrix product for query, key and value, fused attention, byte dropout. In evaluation mode the result
equals RecBole's own forward (tests/models/test_against_recbole.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout, Places

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def embed(model: Any, batch: Batch, dropout: ByteDropout | None) -> Tensor:
    """Item plus position embedding, LayerNorm, dropout: the input of the first block, [B, L, H]."""
    position = F.embedding(batch.position, model.position_embedding.weight)
    x = model.LayerNorm(model.input_vectors(batch) + position)
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
    mask = _for_training(mask, dropout, model)
    for layer in model.trm_encoder.layer:
        x = _block(layer, x, mask, dropout, model)
        outputs.append(x)
    return outputs


def encode_at(model: Any, x: Tensor, mask: Tensor, at: Tensor, dropout: ByteDropout | None) -> Tensor:
    """Output of the last block at chosen positions only.

    The last block answers only these queries and feeds only them forward. A masked-item model trains on less
    than half of the positions; the rest of that block would be thrown away. Its dropout is that of
    :func:`encode`, position by position, so that who needs the whole block and who does not are a pair.

    Parameters
    ----------
    model, x, mask, dropout : as in :func:`encode`
    at : bool [B, L]
        True at T positions.

    Returns
    -------
    float [T, H], in row-major order of ``at``
    """
    *below, top = model.trm_encoder.layer
    mask = _for_training(mask, dropout, model)
    for layer in below:
        x = _block(layer, x, mask, dropout, model)
    width = int(at.sum(1).max())
    column = at.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :width]
    asked = at.gather(1, column)  # rows with fewer positions than the fullest one are filled up
    context = _queried(top, x, mask, column, dropout, model)[asked]
    places = (
        None
        if dropout is None
        else Places(x.shape, tuple(i.numpy(force=True) for i in at.nonzero(as_tuple=True)))
    )
    return _after_attention(top, context, x[at], dropout, model, places)


def encode_one(model: Any, x: Tensor, mask: Tensor, at: Tensor) -> Tensor:
    """Output of the last block at one position per row, in evaluation; as :func:`encode_at`.

    No step depends on the data, so that it can be traced and exported.

    Parameters
    ----------
    model, x, mask : as in :func:`encode`
    at : int64 [B]

    Returns
    -------
    float [B, H]
    """
    *below, top = model.trm_encoder.layer
    for layer in below:
        x = _block(layer, x, mask, None, model)
    context = _queried(top, x, mask, at[:, None], None, model)[:, 0]
    row = torch.arange(x.shape[0], device=x.device)
    return _after_attention(top, context, x[row, at], None, model)


def _queried(
    layer: Any, x: Tensor, mask: Tensor, column: Tensor, dropout: ByteDropout | None, model: Any
) -> Tensor:
    """Attention of the positions ``column`` [B, Q] over all of their row, [B, Q, H]."""
    attention = layer.multi_head_attention
    heads, size = attention.num_attention_heads, attention.attention_head_size
    row = torch.arange(x.shape[0], device=x.device)[:, None]

    def split(projected: Tensor) -> Tensor:
        return projected.view(x.shape[0], -1, heads, size).transpose(1, 2)

    query = split(attention.query(x[row, column]))
    pair = F.linear(
        x,
        torch.cat([attention.key.weight, attention.value.weight]),
        torch.cat([attention.key.bias, attention.value.bias]),
    )
    key, value = map(split, pair.chunk(2, -1))
    seen = mask[row, 0, column][:, None]
    places = None
    if dropout is not None:
        each = np.arange(heads)[:, None]
        index = (row.numpy(force=True)[:, None], each, column.numpy(force=True)[:, None])
        places = Places(torch.Size((x.shape[0], heads, x.shape[1], x.shape[1])), index)
    context = _context(query, key, value, seen, dropout, model.attn_dropout_prob, places)
    return context.transpose(1, 2).flatten(2)


def _block(layer: nn.Module, x: Tensor, mask: Tensor, dropout: ByteDropout | None, model: Any) -> Tensor:
    context = _attend(layer.multi_head_attention, x, mask, dropout, model.attn_dropout_prob)
    return _after_attention(layer, context, x, dropout, model)


def _after_attention(
    layer: Any,
    context: Tensor,
    x: Tensor,
    dropout: ByteDropout | None,
    model: Any,
    places: Places | None = None,
) -> Tensor:
    """Output projection and feed-forward network, each with dropout, residual and LayerNorm."""
    attention, feed_forward = layer.multi_head_attention, layer.feed_forward
    y = attention.LayerNorm(_residual(attention.dense(context), x, dropout, model, places))
    z = feed_forward.dense_2(_ACTIVATIONS[model.hidden_act](feed_forward.dense_1(y)))
    out: Tensor = feed_forward.LayerNorm(_residual(z, y, dropout, model, places))
    return out


def _residual(
    x: Tensor, skip: Tensor, dropout: ByteDropout | None, model: Any, places: Places | None
) -> Tensor:
    return dropout.residual(x, skip, model.hidden_dropout_prob, places) if dropout else x + skip


def _attend(attention: Any, x: Tensor, mask: Tensor, dropout: ByteDropout | None, p: float) -> Tensor:
    b, length, h = x.shape
    heads, size = attention.num_attention_heads, attention.attention_head_size
    projections = (attention.query, attention.key, attention.value)
    weight = torch.cat([m.weight for m in projections])
    bias = torch.cat([m.bias for m in projections])
    # Unbound and not indexed: the gradients of three indices are three tensors of the size of all of it.
    qkv = F.linear(x, weight, bias).view(b, length, 3, heads, size).unbind(2)
    query, key, value = (part.transpose(1, 2) for part in qkv)
    context = _context(query, key, value, mask, dropout, p)
    return context.transpose(1, 2).reshape(b, length, h)


def _for_training(mask: Tensor, dropout: ByteDropout | None, model: Any) -> Tensor:
    """What is added to the scores, once for all layers, where :func:`_context` computes them itself."""
    if not _own_attention(dropout, model.attn_dropout_prob):
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))


def _own_attention(dropout: ByteDropout | None, p: float) -> bool:
    """Whether attention weights are needed for our dropout."""
    return dropout is not None and p > 0


def _context(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    dropout: ByteDropout | None,
    p: float,
    places: Places | None = None,
) -> Tensor:
    """Attention of queries [B, h, Q, d] over keys and values [B, h, L, d], [B, h, Q, d].

    ``mask`` is that of :func:`_for_training`: bool, or float with -inf where nothing is seen.
    """
    if dropout is None or not _own_attention(dropout, p):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2)
    weights = torch.add(mask, scores, alpha=1.0 / math.sqrt(query.shape[-1])).softmax(-1)
    return dropout(weights, p, places) @ value
