"""RecBole's backbones and sequential baselines, imported without a side effect.

``recbole.model.sequential_recommender`` imports every model, and ``sine.py`` switches torch's anomaly
detection on for the whole process (line 25 in 1.2.1): a NaN check on every gradient of everybody, which made
our SASRec epoch 1.3 times as long.
"""

from __future__ import annotations

import torch

_anomaly = torch.is_anomaly_enabled()

from recbole.model.sequential_recommender.bert4rec import BERT4Rec  # noqa: E402
from recbole.model.sequential_recommender.caser import Caser  # noqa: E402
from recbole.model.sequential_recommender.fpmc import FPMC  # noqa: E402
from recbole.model.sequential_recommender.gru4rec import GRU4Rec  # noqa: E402
from recbole.model.sequential_recommender.narm import NARM  # noqa: E402
from recbole.model.sequential_recommender.sasrec import SASRec  # noqa: E402

torch.autograd.set_detect_anomaly(_anomaly)

__all__ = ["FPMC", "NARM", "BERT4Rec", "Caser", "GRU4Rec", "SASRec"]
