"""Language models small enough for a test: random weights, one token per byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import yaml

from recbole_kd.baselines.llm.tuned.lm import AnswerModel, with_adapters
from recbole_kd.baselines.llm.tuned.spec import LoraSpec
from recbole_kd.data.spec import SplitSpec
from recbole_kd.data.split import make_split
from recbole_kd.data.types import Dataset, Sequences, Split
from tests.conftest import ROOT


def byte_tokenizer() -> Any:
    """A token for every byte, as a fast tokenizer of transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": 1, **{letter: i for i, letter in enumerate(letters, 2)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def tiny_llama(seed: int = 0) -> Any:
    """Two layers, 32 dimensions, 258 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


LORA = LoraSpec(rank=4, alpha=8, dropout=0.1, targets=("q_proj", "v_proj"), quantise="none")


def tiny_answers(adapters: bool = False, seed: int = 0) -> AnswerModel:
    model = tiny_llama()
    return AnswerModel(byte_tokenizer(), with_adapters(model, LORA, seed).eval() if adapters else model)


def params_of(room: str, name: str, **changes: Any) -> dict[str, Any]:
    """``params`` of a ranker's file (``hparams`` of a model's), with nested changes."""
    data = yaml.safe_load((ROOT / "properties" / room / f"{name}.yaml").read_text(encoding="utf-8"))
    params: dict[str, Any] = data["params" if room == "ranker" else "hparams"]
    for key, value in changes.items():
        params[key] = {**params[key], **value} if isinstance(value, dict) else value
    return params


def toy_split(
    n_users: int = 12, n_items: int = 15, ratings: bool = True, seed: int = 0, protocol: str = "leave-one-out"
) -> Split:
    """Random histories of 5 to 9 different items; ratings 1 to 5."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 10, size=n_users)
    items = np.concatenate([rng.permutation(np.arange(1, n_items + 1))[:n] for n in lengths])
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    sequences = Sequences(np.arange(1, n_users + 1), offsets, items.astype(np.int64))
    stars = rng.integers(1, 6, size=len(items)).astype(np.float32) if ratings else None
    users = np.array(["[PAD]", *(f"u{i}" for i in range(n_users))], dtype=object)
    names = np.array(["[PAD]", *(f"i{i}" for i in range(n_items))], dtype=object)
    times = rng.permutation(len(items)).astype(np.float64)
    for row in range(n_users):
        times[offsets[row] : offsets[row + 1]].sort()
    dataset = Dataset("toy", users, names, sequences, times, stars, {"time_is_position": 0}, f"toy-{seed}")
    return make_split(dataset, SplitSpec(protocol=protocol, seed=1, quantile=0.7, valid_user_share=0.5))


TITLES = ["", *(f"title {chr(96 + i)}" for i in range(1, 27))]
