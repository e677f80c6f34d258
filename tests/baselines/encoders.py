"""Language encoders of a few thousand parameters, as folders that transformers loads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from recbole_kd.data.synthetic import THEMES

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_encoder(folder: Path, words: Iterable[str] = (), *, longformer: bool = False) -> str:
    """Write a random encoder of two blocks whose tokens are whole words; return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, LongformerConfig, LongformerModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    known = ("title", "category", "number", *THEMES, *map(str, range(31)), *words)
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*_SPECIAL, *known]))}
    split = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    split.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=split, **special).save_pretrained(folder)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(3)
    if longformer:
        model = LongformerModel(LongformerConfig(**sizes, attention_window=[4, 4]))
    else:
        model = BertModel(BertConfig(**sizes))
    model.save_pretrained(folder)
    return str(folder)
