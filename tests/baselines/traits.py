"""A small dataset whose item texts show what drives its users, for systems that read texts."""

from __future__ import annotations

import numpy as np
import torch

from recbole_kd.data.synthetic import THEMES, SyntheticSpec, generate
from recbole_kd.data.types import Dataset, EvalSet, Split
from tests.students import sequences

SPEC = SyntheticSpec(users=160, traits=8, items_per_trait=10, shortest=7, longest=10, own_share=0.8, seed=5)


def trait_split(spec: SyntheticSpec = SPEC) -> Split:
    """Leave-one-out split of the generator's histories."""
    rows = [[item + 1 for item in history] for history in generate(spec)[0]]
    everything = sequences(rows)
    dataset = Dataset(
        name="traits",
        user_tokens=np.array(["[PAD]", *(f"u{k}" for k in range(spec.users))], object),
        item_tokens=np.array(["[PAD]", *(f"i{k}" for k in range(spec.n_items))], object),
        sequences=everything,
        times=np.arange(len(everything.items), dtype=np.float64),
        ratings=None,
        counts={},
        digest="traits",
    )
    return Split(
        dataset=dataset,
        train=sequences([r[:-2] for r in rows]),
        valid=EvalSet(sequences([r[:-2] for r in rows]), np.array([r[-2] for r in rows])),
        test=EvalSet(sequences([r[:-1] for r in rows]), np.array([r[-1] for r in rows])),
        digest="traits-split",
    )


def trait_vectors(spec: SyntheticSpec = SPEC, dim: int = 24) -> torch.Tensor:
    """One vector per item: that of its trait, and noise of half the size."""
    draw = torch.Generator().manual_seed(1)
    centres = torch.randn(spec.traits, dim, generator=draw)
    trait = torch.arange(spec.n_items) // spec.items_per_trait
    vectors = centres[trait] + 0.5 * torch.randn(spec.n_items, dim, generator=draw)
    return torch.cat([torch.zeros(1, dim), vectors])


def trait_attributes(spec: SyntheticSpec = SPEC) -> list[tuple[tuple[str, str], ...]]:
    """Keys and values of every item."""
    themes = [THEMES[i // spec.items_per_trait] for i in range(spec.n_items)]
    items = [
        (("title", f"{theme} number {i % spec.items_per_trait + 1}"), ("category", theme))
        for i, theme in enumerate(themes)
    ]
    return [(), *items]


def pop_ndcg(split: Split) -> float:
    """Test NDCG@10 of popularity, counted here."""
    counts = np.bincount(split.train.items, minlength=split.dataset.n_items).astype(float)
    counts[0] = -1
    total = 0.0
    for target in split.test.targets:
        better = (counts > counts[target]).sum()
        equal = (counts == counts[target]).sum() - 1
        rank = 1 + better + equal / 2
        total += 1 / np.log2(rank + 1) if rank <= 10 else 0.0
    return total / len(split.test.targets)
