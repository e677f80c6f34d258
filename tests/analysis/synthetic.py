"""Synthetic experiments on disk, in the format of docs/architecture.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RankMaker = Callable[[str, str, str, int], np.ndarray]


def latent_ranks(
    n_users: int,
    gains: dict[str, float] | None = None,
    *,
    n_items: int = 500,
    seed_sd: float = 0.0,
    stream: int = 0,
    slope: float = 0.0,
) -> RankMaker:
    """Ranks from a latent score: user ability + gain of the variant + seed effect + noise.

    ``gains`` maps a variant to its shift of the latent score (0: null). ``slope`` lets the gain
    grow with the user's index. Effects are drawn per (dataset, backbone, variant, seed), hence
    do not depend on the order of calls.
    """
    gains = gains or {}

    def make(dataset: str, backbone: str, variant: str, seed: int) -> np.ndarray:
        def rng(*parts: object) -> np.random.Generator:
            text = "/".join(map(str, (stream, *parts)))
            return np.random.default_rng(list(text.encode()))

        ability = rng(dataset, backbone).normal(size=n_users)
        score = ability + rng(dataset, backbone, variant, seed).normal(size=n_users)
        gain = gains.get(variant, 0.0) * (1 + slope * (np.arange(n_users) / n_users - 0.5))
        score = score + gain + seed_sd * float(rng(dataset, backbone, variant, seed, "s").normal())
        share = 1 / (1 + np.exp(1.5 * (score + 1.0)))
        return np.clip(np.floor(1 + share * (n_items - 1)), 1, n_items).astype(np.float32)

    return make


def target_frame(n_users: int, split: str, *, n_items: int = 500) -> pd.DataFrame:
    """Targets of one split: user 0 has the shortest history."""
    rng = np.random.default_rng(7)
    train_len = np.sort(rng.geometric(0.03, size=n_users) + 2).astype(np.int32)
    return pd.DataFrame(
        {
            "split": split,
            "user": [f"u{i:05d}" for i in range(n_users)],
            "item": [f"i{k}" for k in rng.integers(n_items, size=n_users)],
            "train_len": train_len,
            "history_len": (train_len + (split == "test")).astype(np.int32),
            "item_count": rng.zipf(1.6, size=n_users).clip(0, 1000).astype(np.int32),
        }
    )


def write_run(
    path: Path,
    label: dict[str, Any],
    rank: np.ndarray,
    *,
    users: Sequence[int] | None = None,
    **manifest: Any,
) -> None:
    """One run directory."""
    path.mkdir(parents=True)
    frames = []
    for split in ("valid", "test"):
        frame = target_frame(len(rank), split)
        frame["rank"] = rank.astype(np.float32)
        frame["rank_masked"] = np.maximum(1, rank - 3).astype(np.float32)
        frames.append(frame if users is None else frame.iloc[list(users)])
    table = pd.concat(frames, ignore_index=True)
    table["split"] = table["split"].astype("category")
    table.to_parquet(path / "ranks.parquet", index=False)
    distil = label["variant"] != "plain"
    epochs = pd.DataFrame(
        {
            "epoch": np.arange(1, 13),
            "phase": [
                "distil" if distil and e < 5 else "fine-tune" if distil else "plain" for e in range(12)
            ],
            "loss": np.linspace(6, 4, 12),
            "loss_rec": np.linspace(6, 4, 12),
            "loss_distil": np.where(np.arange(12) < 5, np.linspace(1, 0.2, 12), np.nan),
            "valid_ndcg@10": 0.05 * (1 - np.exp(-np.arange(1, 13) / 4)) + 0.001 * label["seed"],
            "valid_recall@10": 0.1 * (1 - np.exp(-np.arange(1, 13) / 4)),
            "seconds": 1.0,
        }
    )
    epochs.to_parquet(path / "history.parquet", index=False)
    text = {
        "format": 1,
        "cell": path.name,
        "label": label,
        "status": "done",
        "metrics": {},
        "best_epoch": 9,
        "epochs": 12,
        "seconds": {"train": 12.5 + distil, "total": 14.0},
        "peak_memory_mb": 600.0,
        "n_parameters": 120_000,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "code": "0" * 40,
        "dataset_digest": "d",
        "split_digest": "s",
        "profile_digest": None,
        "profile_coverage": 1.0 if distil else None,
        "protocol": {"split": "leave-one-out", "candidates": "all items", "loss": "CE"},
        "counts": {"users": len(rank)},
    }
    (path / "manifest.json").write_text(json.dumps(text | manifest), encoding="utf-8")
    (path / "spec.yaml").write_text(f"variant: {label['variant']}\n", encoding="utf-8")


def write_experiment(
    root: Path,
    ranks: RankMaker,
    *,
    datasets: Iterable[str] = ("toy",),
    backbones: Iterable[str] = ("SASRec",),
    variants: Iterable[str] = ("plain", "kd"),
    seeds: Iterable[int] = (0, 1, 2),
    metrics: Sequence[str] = ("NDCG@10", "Recall@10"),
    skip: Iterable[tuple[str, str, str, int]] = (),
    failures: Sequence[dict[str, Any]] = (),
    name: str = "trial",
) -> Path:
    """``<root>/runs`` and ``<root>/<name>/experiment.json``; cells in ``skip`` are planned only."""
    skipped, cells = set(skip), []
    for dataset in datasets:
        for backbone in backbones:
            for variant in variants:
                for seed in seeds:
                    key = (dataset, backbone, variant, seed)
                    cell = "-".join(map(str, key)).lower()
                    label = dict(zip(("dataset", "backbone", "variant", "seed"), key, strict=True))
                    cells.append(label | {"cell": cell, "run": f"../runs/{cell}"})
                    path = root / "runs" / cell
                    if key not in skipped and not path.exists():
                        write_run(path, label, ranks(*key))
    directory = root / name
    directory.mkdir(exist_ok=True)
    plan = {"format": 1, "experiment": name, "baseline": "plain", "metrics": list(metrics)}
    plan |= {"cells": cells, "failures": list(failures)}
    (directory / "experiment.json").write_text(json.dumps(plan), encoding="utf-8")
    return directory
