"""Recformer's pre-training: masked words and item-item contrast (Li et al., KDD 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.baselines.pretraining import Corpus, in_batch_infonce
from recbole_kd.baselines.recformer.model import draw_prefixes, make_encoder, make_tokens, trained_names
from recbole_kd.baselines.recformer.tokens import Line, newest_first
from recbole_kd.models.batch import Batch
from recbole_kd.models.cross_entropy import catalogue_cross_entropy
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.training.spec import PretrainSpec

_MASKED, _RANDOM = 0.8, 0.1


class RecformerPretraining(nn.Module):
    """L = L_IIC + ``mlm_weight`` * (L_MLM of the history + L_MLM of the next item).

    L_IIC = -mean_b log exp(cos(s_b, v_b) / tau) / sum_b' exp(cos(s_b, v_b') / tau), v_b the item after a
    drawn prefix, negatives the other next items in the batch (not of the same user, not the same item).
    L_MLM: the cross-entropy of ``mlm_rate`` of the words; of these 8 in 10 are masked, 1 is replaced by a
    drawn word and 1 is left.

    Parameters
    ----------
    corpus : Corpus
        With ``attributes``.
    hparams : mapping
        Of the Recformer that will be fine-tuned; ``encoder`` is a folder or a name.
    params : mapping
        Not read: a model of its own has no other parameters.
    spec : PretrainSpec
    max_len : int
        Not read: ``max_items`` bounds the history.
    """

    packed: ClassVar[bool] = False

    def __init__(
        self,
        corpus: Corpus,
        hparams: Mapping[str, Any],
        params: Mapping[str, Any],
        spec: PretrainSpec,
        max_len: int,
    ) -> None:
        super().__init__()
        assert corpus.attributes is not None
        self.encoder, tokenizer = make_encoder(hparams, str(hparams["encoder"]))
        self.tokens = make_tokens(hparams, corpus.attributes, tokenizer)
        width = self.encoder.words.shape[1]
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head_bias = nn.Parameter(torch.zeros(len(self.encoder.words)))
        self._mask = int(tokenizer.mask_token_id)
        self._max_items, self._max_tokens = int(hparams["max_items"]), int(hparams["max_tokens"])
        self._temperature = float(hparams["temperature"])
        self._mlm_weight, self._mlm_rate = float(spec.args["mlm_weight"]), float(spec.args["mlm_rate"])

    def step_loss(self, batch: Batch, dropout: ByteDropout, rng: np.random.Generator) -> Tensor:
        """L of one batch."""
        length, target = draw_prefixes(batch, rng)
        history = self.tokens.lay_out(newest_first(batch.item_seq, length, self._max_items), self._max_tokens)
        item = self.tokens.lay_out(target[:, None], self._max_tokens)
        alike = (target[:, None] == target) | (batch.user[:, None] == batch.user)
        loss = in_batch_infonce(self.encoder(history), self.encoder(item), self._temperature, alike)
        if self._mlm_weight > 0:
            loss = loss + self._mlm_weight * (self.mlm_loss(history, rng) + self.mlm_loss(item, rng))
        return loss

    def mlm_loss(self, line: Line, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of the hidden words over the vocabulary."""
        hidden, ids = hide(line, self._mlm_rate, self._mask, len(self.encoder.words), rng)
        states = self.head(self.encoder.states(replace(line, ids=ids))[hidden])
        # In float32: few are hidden, so that rounding a whole vocabulary costs more than the products.
        return catalogue_cross_entropy(states, self.encoder.words, line.ids[hidden], self.head_bias)

    def learned(self) -> dict[str, Tensor]:
        """Parameters of the encoder that were trained."""
        own = dict(self.encoder.named_parameters())
        return {name: own[name] for name in trained_names(self.encoder)}


def hide(
    line: Line, rate: float, mask_id: int, vocabulary: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Choose words to predict and what stands in their place.

    Returns
    -------
    hidden : bool [B, T]
        Never the first token nor padding.
    ids : int64 [B, T]
    """
    shape = tuple(line.ids.shape)
    chosen = torch.from_numpy(rng.random(shape) < rate).to(line.ids.device) & line.mask
    chosen[:, 0] = False
    how = torch.from_numpy(rng.random(shape)).to(line.ids.device)
    words = torch.from_numpy(rng.integers(0, vocabulary, size=shape)).to(line.ids.device)
    ids = torch.where(chosen & (how < _MASKED), mask_id, line.ids)
    swapped = chosen & (how >= _MASKED) & (how < _MASKED + _RANDOM)
    return chosen, torch.where(swapped, words, ids)


__all__ = ["RecformerPretraining", "hide"]
