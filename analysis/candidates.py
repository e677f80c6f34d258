"""``candidates.parquet`` of an experiment: every method on the same candidate sets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.load import Results
from recbole_kd.errors import StoreError
from recbole_kd.metrics import per_user

FILE = "candidates.parquet"
LOOP = "loop.json"
_LABELS = ["dataset", "backbone", "variant"]
_TIMED = ["p50_ms", "p95_ms"]
# What a language model took while it was timed; missing in files of earlier versions.
_TOOK = ["calls_per_user", "prompt_tokens", "completion_tokens", "usd_per_1000"]
_COLUMNS = [*_LABELS, "seed", "cell", "user", "rank", "candidate_rank", "composed"]


@dataclass(frozen=True)
class CandidateRanks:
    """Rows of the file (one per run and asked test user) and the protocol that they were made under."""

    rows: pd.DataFrame
    protocol: dict[str, Any]


def read_candidates(results: Results) -> CandidateRanks | None:
    """The candidate ranks of an experiment's done cells, None where it has no candidate protocol.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = results.directory / FILE
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, columns=_COLUMNS)
        protocol = json.loads(table.schema.metadata[b"recbole_kd"])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); run the experiment again to write it anew") from None
    rows = table.to_pandas()
    return CandidateRanks(rows[rows["cell"].isin(set(results.done["cell"]))], protocol)


def half_width(values: np.ndarray, confidence: float = 0.95) -> float:
    """Half of the t interval of a mean over users; NaN where all are alike, which bounds nothing."""
    n = len(values)
    deviation = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if deviation == 0.0:
        return math.nan
    return float(stats.t.ppf((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n))


def candidate_frame(results: Results, ranks: CandidateRanks) -> pd.DataFrame:
    """One row per method: metrics of the same users under the full ranking and on the candidates.

    Columns ``users``, ``missed`` (mean over seeds of users whose target is no candidate), and for every
    metric ``<metric>_full`` (the method's own ranks), ``<metric>_all`` (the method orders the candidates;
    a missed target keeps the retriever's rank), ``<metric>_retrieved`` (rank among the candidates, users
    whose target is one), each with ``_half``, half of the 95 % interval over users of the seed-averaged
    values. The last row of a dataset is the ceiling: every retrieved target first.
    """
    rows = []
    for dataset, part in ranks.rows.groupby("dataset", sort=False, observed=True):
        for _, backbone, variant in (m for m in results.methods() if m[0] == dataset):
            own = part[(part["backbone"] == backbone) & (part["variant"] == variant)]
            if len(own):
                rows.append(
                    {"dataset": dataset, "backbone": backbone, "variant": variant} | _row(results, own)
                )
        first = part[part["cell"].isin(part.drop_duplicates("seed")["cell"])]
        best = np.where(first["candidate_rank"].notna(), 1.0, first["composed"])
        held = np.where(first["candidate_rank"].notna(), 1.0, np.nan)
        ceiling = first.assign(composed=best, candidate_rank=held, rank=np.nan)
        rows.append({"dataset": dataset, "backbone": "", "variant": "ceiling"} | _row(results, ceiling))
    return pd.DataFrame(rows)


def _row(results: Results, own: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {
        "users": own["user"].nunique(),
        "missed": own["candidate_rank"].isna().groupby(own["seed"]).sum().mean(),
        "n_seeds": own["seed"].nunique(),
    }
    for metric in results.metrics:
        for name, column in (("full", "rank"), ("all", "composed"), ("retrieved", "candidate_rank")):
            known = own[own[column].notna()]
            values = pd.Series(per_user(known[column].to_numpy(float), metric), index=known["user"])
            means = values.groupby(level=0).mean().to_numpy()
            row[f"{metric}_{name}"] = float(means.mean()) if len(means) else math.nan
            row[f"{metric}_{name}_half"] = half_width(means)
    return row


def protocol_words(protocol: dict[str, Any]) -> str:
    """The candidate protocol in one sentence."""
    retriever = protocol.get("retriever") or {}
    words = [
        f"top {protocol.get('top')} of {retriever.get('backbone')} {retriever.get('variant')}, same seed"
    ]
    words.append("items of the history left out" if protocol.get("exclude_seen") else "full ranking")
    if protocol.get("oracle_candidates"):
        words.append("THE TARGET ADDED BY HAND where the retriever missed it")
    if protocol.get("max_users") is not None:
        words.append(f"{protocol['max_users']} users sampled with seed {protocol.get('seed')}")
    return ", ".join(words)


def read_loop(results: Results) -> pd.DataFrame:
    """What ``loop-latency`` measured: one row per method, ``p50_ms``, ``p95_ms``, tokens and money; or empty.

    Raises
    ------
    StoreError
    """
    path = results.directory / LOOP
    if not path.is_file():
        return pd.DataFrame(columns=[*_LABELS, "cell", "users", *_TIMED, *_TOOK])
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found = pd.DataFrame(rows)
        return found[[*_LABELS, "cell", "users", *_TIMED]].join(found.reindex(columns=_TOOK).astype(float))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); run loop-latency again") from None


def loop_frame(results: Results) -> pd.DataFrame:
    """Quality of every timed method on the users that all were asked for, beside its milliseconds per user.

    Columns ``dataset, backbone, variant, metric, mean, p50_ms, p95_ms`` for
    `analysis.figures.cost_quality_plot`; empty without candidates or ``loop-latency``.
    """
    ranks, timed = read_candidates(results), read_loop(results)
    if ranks is None or not len(timed):
        return pd.DataFrame(columns=[*_LABELS, "metric", "mean", "p50_ms", "p95_ms"])
    metric = results.metrics[0]
    quality = candidate_frame(results, ranks)[[*_LABELS, f"{metric}_full"]]
    found = timed.merge(quality, on=_LABELS, how="inner")
    return found.rename(columns={f"{metric}_full": "mean"}).assign(metric=metric)
