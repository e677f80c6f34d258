"""What a method costs: seconds, memory, parameters, and whatever the manifests price."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import wording
from analysis.candidates import read_loop
from analysis.load import Results
from analysis.summary import summarise
from analysis.table import Cell, Column, Table

TIMED = ("p50_ms", "p95_ms")
# In manifests: what writing the profiles took that a method reads when it serves.
_READ = "read_"
_SERVED = {
    "p50_ms": ("p50 ms", 2),
    "p95_ms": ("p95 ms", 2),
    "calls_per_user": ("Calls/user", 1),
    "tokens_per_user": ("Tokens/user", 0),
    "usd_per_1000": ("USD/1,000", 4),
}
_PROFILE = {
    "profile_tokens": ("Profile tokens/user", 0),
    "profile_seconds": ("Profile s/user", 2),
    "profile_usd_per_1000": ("Profile USD/1,000 users", 4),
}


def _priced(results: Results, cells: list[str]) -> dict[str, float]:
    """Mean over runs of every number below ``cost`` in their manifests, such as tokens or money."""
    totals: dict[str, list[float]] = {}
    for cell in cells:
        cost = results.manifests[cell].get("cost")
        for key, value in (cost if isinstance(cost, dict) else {}).items():
            if key == "train_seconds" or key.startswith(_READ):  # columns of their own
                continue
            if isinstance(value, int | float) and not isinstance(value, bool):
                totals.setdefault(f"cost_{key}", []).append(float(value))
    return _means(dict(sorted(totals.items())))


def _means(found: dict[str, list[float]]) -> dict[str, float]:
    """Mean of what was found under every name."""
    return {name: sum(values) / len(values) for name, values in found.items()}


_LOOP = (
    " Calls, tokens and USD/1,000: of a language model that answers while serving, per user and per 1,000 "
    "lists of recommendations (0 for weights on this machine, which cost its time). p50 and p95 ms: per "
    "user, one at a time, measured by loop-latency with all methods in turn."
)

_PROFILES = (
    " Profile tokens, seconds and USD: of writing the stored text that the method reads when it serves, "
    "spent once per user and profile, not per request, and no part of the columns per user or 1,000 lists."
)


def cost_frame(results: Results) -> pd.DataFrame:
    """One row per method: quality on the primary metric and mean cost over its runs.

    Columns ``partial`` (the method has fewer users than its dataset), ``train_seconds``, ``epochs``,
    ``peak_memory_mb``, ``n_parameters``, ``profile_coverage``, ``serving_needs`` (nothing, or vectors of
    profiles for whoever is served), one ``cost_<name>`` per number under ``cost`` in the manifests, what
    serving asks of a language model, and ``profile_<name>``: what the stored profile of one user took that a
    method reads when it serves.
    """
    metric = results.metrics[0]
    summaries = summarise(results, [metric])
    indexed = results.done.drop_duplicates("cell").set_index("cell")
    rows = []
    for method in results.methods():
        cells = list(results.cells(*method).values())
        row: dict[str, Any] = dict(zip(("dataset", "backbone", "variant"), method, strict=True))
        quality = summaries[(method, metric)]
        row |= {"metric": metric, "mean": quality.mean, "n_seeds": len(cells), "partial": quality.partial}
        for name in ("train_seconds", "epochs", "peak_memory_mb", "n_parameters", "profile_coverage"):
            found = indexed.loc[cells, name] if name in indexed else pd.Series(dtype=float)
            values = pd.to_numeric(found, errors="coerce")
            row[name] = float(values.mean()) if len(values) else float("nan")
        needs = {str(results.manifests[c].get("serving_needs") or "nothing") for c in cells}
        row["serving_needs"] = ", ".join(sorted(needs))
        rows.append(row | _priced(results, cells) | _served(results, cells) | _written(results, cells))
    frame, timed = pd.DataFrame(rows), read_loop(results)
    return _with_timing(frame, timed) if len(timed) and len(frame) else frame


def _with_timing(frame: pd.DataFrame, timed: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of loop-latency, and what it counted for methods whose runs do not count (P5)."""
    keys = ["dataset", "backbone", "variant"]
    asks = timed["calls_per_user"] > 0
    took = timed[["calls_per_user", "usd_per_1000"]].where(asks)
    took["tokens_per_user"] = (timed["prompt_tokens"] + timed["completion_tokens"]).where(asks)
    counted = frame[keys].merge(timed[keys].join(took), on=keys, how="left")
    frame = frame.merge(timed[[*keys, *TIMED]], on=keys, how="left")
    for name in took:
        frame[name] = frame[name].fillna(counted[name]) if name in frame else counted[name]
    return frame


def _served(results: Results, cells: list[str]) -> dict[str, float]:
    """Means over runs of what a language model in the loop takes: tokens per user, money per 1,000 users."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        said = ((results.manifests[cell].get("ranker") or {}).get("parts") or {}).get(results.split) or {}
        users = said.get("users")
        if not users:
            continue
        found.setdefault("calls_per_user", []).append(said["calls"] / users)
        tokens = said["prompt_tokens"] + said["completion_tokens"]
        found.setdefault("tokens_per_user", []).append(tokens / users)
        if said.get("usd") is not None:
            found.setdefault("usd_per_1000", []).append(1000 * said["usd"] / users)
    return _means(found)


def _written(results: Results, cells: list[str]) -> dict[str, float]:
    """Means over runs of what one user's stored profile took; empty where none is read when serving."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        cost = results.manifests[cell].get("cost") or {}
        users = cost.get(f"{_READ}users")
        if not users:
            continue
        counted = {
            name: cost.get(f"{_READ}{name}")
            for name in ("prompt_tokens", "completion_tokens", "seconds", "usd")
        }
        if counted["prompt_tokens"] is not None and counted["completion_tokens"] is not None:
            tokens = counted["prompt_tokens"] + counted["completion_tokens"]
            found.setdefault("profile_tokens", []).append(tokens / users)
        if counted["seconds"] is not None:
            found.setdefault("profile_seconds", []).append(counted["seconds"] / users)
        if counted["usd"] is not None:
            found.setdefault("profile_usd_per_1000", []).append(1000 * counted["usd"] / users)
    return _means(found)


def _digits(name: str) -> int:
    """Counts have no decimals."""
    return 0 if name.endswith(("_tokens", "_calls")) else 2


def cost_table(results: Results, *, digits: int = 4) -> Table:
    """Quality beside training cost and, where the manifests have it, serving cost."""
    frame = cost_frame(results)
    priced = [c for c in frame.columns if c.startswith("cost_")]
    heads = {"train_seconds": ("Seconds", 1), "epochs": ("Epochs", 1), "peak_memory_mb": ("Peak MB", 0)}
    heads |= {"n_parameters": ("Parameters", 0), "profile_coverage": ("Coverage", 2)}
    heads |= {c: (c.removeprefix("cost_").replace("_", " "), _digits(c)) for c in priced}
    heads |= {name: head for name, head in (_SERVED | _PROFILE).items() if name in frame}
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    group = None
    for row in frame.to_dict("records"):
        if (row["dataset"], row["backbone"]) != group:
            groups.append(len(rows))
            group = (row["dataset"], row["backbone"])
        cells = [Cell(str(row[k])) for k in ("dataset", "backbone", "variant")]
        cells.append(Cell(wording.number(row["mean"], digits), sort=row["mean"]))
        cells += [Cell(wording.number(row[k], d, thousands=True), sort=row[k]) for k, (_, d) in heads.items()]
        cells.append(Cell(row["serving_needs"]))
        rows.append(tuple(cells))
    devices = sorted({str(m.get("device")) for m in results.manifests.values()})
    return Table(
        name="cost",
        title=f"{results.experiment}: cost",
        caption=(
            f"Means over finished runs; trained on {wording.listing(devices) or 'no device yet'}. Seconds "
            "are training time as the run measured it, on a machine that other runs may have shared. What "
            "begins with llm is the sum over the teacher's texts, spent once for all runs that share them."
            + (_LOOP if any(name in frame for name in _SERVED) else "")
            + (_PROFILES if any(name in frame for name in _PROFILE) else "")
        ),
        columns=(
            *(Column(c, "l") for c in ("Dataset", "Backbone", "Variant")),
            Column(f"{results.metrics[0]} \u2191"),
            *(Column(name) for name, _ in heads.values()),
            Column("Needs to serve", "l"),
        ),
        rows=tuple(rows),
        groups=tuple(groups),
        notes=results.problems,
        frame=frame,
    )
