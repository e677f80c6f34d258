"""T5 with whole-word embeddings, read in batches and decoded token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WORDS = 512  # P5's: later words of a prompt share the last vector


class P5Model(nn.Module):
    """Encoder-decoder p(name | prompt) (Geng et al., RecSys 2022).

    The encoder reads e(token) + w(word), where w tells which tokens belong to one word, such as the pieces of
    one item's name; loss L = -1/|y| sum_t log p(y_t | y_<t, x).

    Parameters
    ----------
    t5 : T5ForConditionalGeneration
    generator : torch.Generator
        Draws w.
    """

    def __init__(self, t5: Any, generator: torch.Generator) -> None:
        super().__init__()
        self.t5 = t5
        self.whole_word = nn.Embedding(_WORDS, t5.config.d_model)
        with torch.no_grad():
            self.whole_word.weight.normal_(generator=generator)

    def read(self, ids: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Encoder states, float [B, S, d]."""
        embedded = self.t5.get_input_embeddings()(ids) + self.whole_word(words.clamp_max(_WORDS - 1))
        states: Tensor = self.t5.get_encoder()(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return states

    def loss(self, ids: Tensor, words: Tensor, mask: Tensor, names: Tensor, pad: int) -> Tensor:
        """Mean over the real tokens of ``names`` [B, T]."""
        logits = self._decode(self.read(ids, words, mask), mask, self._shifted(names)).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), names.flatten(), ignore_index=pad)

    def log_probabilities(self, ids: Tensor, words: Tensor, mask: Tensor, names: Tensor, pad: int) -> Tensor:
        """log p(name | prompt) of one name per row, float [B]: what the search adds up, in one pass."""
        logits = self._decode(self.read(ids, words, mask), mask, self._shifted(names)).logits
        chances = logits.float().log_softmax(-1).gather(2, names[:, :, None])[:, :, 0]
        return chances.masked_fill(names == pad, 0).sum(1)

    def _shifted(self, names: Tensor) -> Tensor:
        start = torch.full_like(names[:, :1], self.start)
        return torch.cat([start, names[:, :-1]], 1)

    @property
    def start(self) -> int:
        """Token that the decoder is begun with."""
        return int(self.t5.config.decoder_start_token_id)

    def _decode(self, states: Tensor, mask: Tensor, tokens: Tensor, cache: Any = None) -> Any:
        return self.t5(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=cache is not None,
        )


class CachedDecoder:
    """Decodes a batch with keys and values kept (``beam.Decoder``)."""

    def __init__(self, model: P5Model, states: Tensor, mask: Tensor) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self._model, self._states, self._mask = model, states, mask
        self._cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor) -> Tensor:
        """See ``beam.Decoder``."""
        out = self._model._decode(self._states, self._mask, tokens[:, None], self._cache)
        return out.logits[:, -1].float().log_softmax(-1)

    def reorder(self, rows: Tensor) -> None:
        """See ``beam.Decoder``."""
        self._cache.reorder_cache(rows)
        self._states, self._mask = self._states[rows], self._mask[rows]


def random_t5(size: int, pad: int, eos: int, shape: dict[str, Any], seed: int) -> Any:
    """A T5 of the given shape with T5's own initial weights, drawn from a stream of its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    config: Any = T5Config(
        vocab_size=size,
        pad_token_id=pad,
        eos_token_id=eos,
        d_model=shape["d_model"],
        d_kv=shape["d_kv"],
        d_ff=shape["d_ff"],
        num_layers=shape["n_layers"],
        num_decoder_layers=shape["n_layers"],
        num_heads=shape["n_heads"],
        dropout_rate=shape["dropout"],
    )
    config.decoder_start_token_id = pad
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def pretrained_t5(source: str | Path, dropout: float) -> tuple[Any, Any]:
    """Tokenizer and model of a folder or hub name.

    Raises
    ------
    SpecError
        It cannot be loaded.
    """
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    from recbole_kd.errors import SpecError

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        model = T5ForConditionalGeneration.from_pretrained(
            str(source), dtype=torch.float32, dropout_rate=dropout, use_safetensors=True
        )
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0][:160]
        raise SpecError(
            f"hparams.weights '{source}': cannot be loaded ({reason}); name a folder with a T5 in "
            "safetensors, or set weights: null for a small one from random weights"
        ) from error
    return tokenizer, model
