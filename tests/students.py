"""Small students and splits for the tests of models, training and ranking."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_kd.data.types import Dataset, EvalSet, Sequences, Split
from recbole_kd.models.build import build_student
from recbole_kd.training.spec import DistillSpec, StudentSpec, TrainSpec

BACKBONES = ("SASRec", "GRU4Rec", "BERT4Rec")

_TRANSFORMER: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
HPARAMS: dict[str, dict[str, Any]] = {
    "SASRec": _TRANSFORMER,
    "GRU4Rec": {"embedding_size": 16, "hidden_size": 24, "num_layers": 1, "dropout_prob": 0.2},
    "BERT4Rec": {**_TRANSFORMER, "mask_ratio": 0.4, "ft_ratio": 0.3},
}
MAX_LEN = 8
SYSTEM_PARAMS: dict[str, dict[str, Any]] = {
    "text-init": {"scale": 1.0},
    "text-adapter": {"n_layers": 2, "hidden": 12},
    "text-gate": {"gate_bias": 0.5},
    "kar": {"shared_experts": 2, "dedicated_experts": 1, "hidden": 6, "init_scale": 1.0},
    "profile-token": {"scale": 1.0},
    "rlmrec-items": {"weight": 0.5, "temperature": 0.2},
    "llm-esr": {"adapter_hidden": 12, "neighbours": 3, "alpha": 0.1, "init_scale": 1.0},
}


def sequences(rows: list[list[int]]) -> Sequences:
    """CSR of rows; row r belongs to user r + 1."""
    offsets = np.cumsum([0, *map(len, rows)])
    items = np.concatenate([np.asarray(r, np.int64) for r in rows]) if rows else np.zeros(0, np.int64)
    return Sequences(np.arange(1, len(rows) + 1), offsets.astype(np.int64), items.astype(np.int64))


def tiny_split(n_users: int = 40, n_items: int = 30, seed: int = 0) -> Split:
    """Leave-one-out split of walks on a ring of items (the next item is learnable), lengths 4..20."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_users):
        length = int(rng.integers(4, 21))
        steps = rng.choice([1, 1, 1, 2, 5], size=length)
        rows.append(((rng.integers(n_items) + np.cumsum(steps)) % (n_items - 1) + 1).tolist())
    everything = sequences(rows)
    dataset = Dataset(
        name="tiny",
        user_tokens=np.array(["[PAD]", *(f"u{k}" for k in range(n_users))], object),
        item_tokens=np.array(["[PAD]", *(f"i{k}" for k in range(1, n_items))], object),
        sequences=everything,
        times=np.arange(len(everything.items), dtype=np.float64),
        ratings=None,
        counts={},
        digest="tiny",
    )
    return Split(
        dataset=dataset,
        train=sequences([r[:-2] for r in rows]),
        valid=EvalSet(sequences([r[:-2] for r in rows]), np.array([r[-2] for r in rows])),
        test=EvalSet(sequences([r[:-1] for r in rows]), np.array([r[-1] for r in rows])),
        digest="tiny-split",
    )


def student(name: str, *, n_items: int = 30, seed: int = 1, **hparams: Any) -> Any:
    """Untrained student with weights large enough that outputs differ visibly."""
    model = build_student(name, {**HPARAMS[name], **hparams}, n_items=n_items, max_len=MAX_LEN, seed=seed)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    model.eval()
    return model


def distill_spec(**changes: Any) -> DistillSpec:
    """A valid DistillSpec with ``changes``."""
    values: dict[str, Any] = {
        "objective": "mse",
        "objective_args": {},
        "alpha": 0.5,
        "scale_distil_loss": False,
        "schedule": "two-phase",
        "distil_epochs": 2,
        "warm_up_epochs": 0,
        "fine_tune_epochs": 1,
        "alternate_every": 2,
        "reset_optimizer": False,
        "gradient_conflict": "ignore",
        "layer": -1,
        "layers_joined": "concatenated",
        "pooling": "mean",
        "pooling_decay": 0.1,
        "pooling_masked": True,
        "prefixes": "last",
        "projection": "student",
        "projector": "linear",
        "projector_hidden": 12,
        "projector_frozen": False,
        "experts": {"n_experts": 3, "hot": 1.0, "cold": 0.01},
        "target": "standardised",
        "target_shrinkage": 0.1,
        "several_profiles": "mean",
        "coverage": "profiled",
        "confidence": None,
        "confidence_column": "grounding",
    }
    return DistillSpec(**{**values, **changes})


def student_spec(name: str, distill: DistillSpec | None = None, **train: Any) -> StudentSpec:
    """A StudentSpec that trains in about a second."""
    values: dict[str, Any] = {
        "learning_rate": 0.005,
        "weight_decay": 0.0,
        "train_batch_size": 8,
        "epochs": 4,
        "stopping_step": 10,
        "valid_metric": "NDCG@10",
        "clip_grad_norm": None,
        "weight_average": 0.0,
        "eval_batch_size": 16,
        "softmax_precision": "float32",
    }
    return StudentSpec(
        model=name, hparams=HPARAMS[name], train=TrainSpec(**{**values, **train}), distill=distill
    )
