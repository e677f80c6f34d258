"""Pop: every user gets the items with most train interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.baselines.scorer import Scorer
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.models.side import SideInputs


def compute(split: Split, hparams: Mapping[str, Any], side: SideInputs) -> Scorer:
    """score(i) = train interactions of i; equally popular items share their rank."""
    counts = torch.from_numpy(split.train_item_counts().astype(np.float32))

    def score(part: EvalSet, rows: slice) -> Tensor:
        return counts.expand(rows.stop - rows.start, -1)

    return Scorer(score, {"item_counts": counts}, len(counts))
