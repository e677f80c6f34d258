"""Numbers and protocols in words, the same in every table, figure and page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from analysis.comparison import Comparison
from analysis.load import Results, shared_protocol

MINUS = "\u2212"
# Cases of one kind that are spelled out.
_LISTED = 3


def number(value: float | None, digits: int = 4, *, thousands: bool = False) -> str:
    """Fixed digits with a true minus sign; an en dash for what is not there."""
    if value is None or math.isnan(value):
        return "\u2013"
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    text = f"{value:,.{digits}f}" if thousands else f"{value:.{digits}f}"
    text = text.lstrip("-") if float(f"{value:.{digits}f}") == 0 else text
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """`number` with a plus sign before a positive value."""
    text = number(value, digits)
    positive = value is not None and not math.isnan(value) and float(f"{value:.{digits}f}") > 0
    return f"+{text}" if positive else text


def percent(value: float | None, mark: str = "") -> str:
    """Signed per cent with one decimal and a mark; an en dash for what is not there."""
    text = signed(value, 1)
    return text if value is None or math.isnan(value) else f"{text} %{mark}"


def p_value(p: float | None) -> str:
    """``<.001`` or three decimals without a leading zero."""
    if p is None or math.isnan(p):
        return "\u2013"
    if p < 0.001:
        return "<.001"
    return "1.000" if p >= 0.9995 else f"{p:.3f}".lstrip("0")


def dagger(p: float | None) -> str:
    """Dagger for p < .05, double dagger for p < .01."""
    if p is None or math.isnan(p) or p >= 0.05:
        return ""
    return "\u2021" if p < 0.01 else "\u2020"


def arrow(value: float) -> str:
    """Up, down or nothing."""
    return "\u2191" if value > 0 else "\u2193" if value < 0 else ""


def listing(values: Iterable[object]) -> str:
    """Comma-separated."""
    return ", ".join(str(v) for v in values)


# Stated by the sentence itself, or per dataset in the report.
_SAID = frozenset(
    {
        "candidates",
        "dataset",
        "dataset_digest",
        "interactions",
        "items",
        "seen_items",
        "split_digest",
        "ties",
        "users",
    }
)


def protocol(results: Results) -> str:
    """Split, candidates and seen-item rule in one sentence, then what the manifests add.

    Where runs differ in an entry, all its values are named.
    """
    seen = "without the items of the user's own history" if results.masked else "seen items kept"
    part = {"test": "Test", "valid": "Validation"}.get(results.split, results.split)
    stated: dict[str, list[str]] = {}
    for manifest in results.manifests.values():
        for key, value in shared_protocol(manifest).items():
            known = stated.setdefault(str(key), [])
            if isinstance(value, str | int | float) and str(value) not in known:
                known.append(str(value))
    candidates = listing(stated.get("candidates", [])) or "all items"
    text = f"{part} targets ranked among {candidates} ({seen}; ties: average rank)"
    extra = "; ".join(f"{k}: {listing(v)}" for k, v in sorted(stated.items()) if v and k not in _SAID)
    return f"{text}; {extra}." if extra else f"{text}."


def sample(results: Results) -> str:
    """Users and seeds per dataset."""
    parts = []
    for dataset, panel in results.panels.items():
        seeds = sorted({int(s) for s in results.runs[results.runs["dataset"] == dataset]["seed"]})
        plural = "seed" if len(seeds) == 1 else "seeds"
        parts.append(f"{dataset}: {panel.n_users} users, {len(seeds)} {plural}")
    return "; ".join(parts)


def testing(comparisons: Sequence[Comparison], baseline: str) -> str:
    """Which interval, test, correction and family the comparisons used."""
    results = [c.result for c in comparisons if c.result]
    if not results:
        return f"No comparison with '{baseline}' can be made yet."
    first = next((r for r in results if r.n_seeds > 1), results[0])
    level = f"{100 * first.confidence:g} %"
    made = sum(1 for c in comparisons if c.result)
    family = first.family
    if made < len(comparisons):
        family += f", {made} made so far, the others counted as p = 1"
    return (
        f"\u0394: paired difference to '{baseline}' of the same backbone, per user, same seed; in brackets "
        f"its {level} interval ({first.interval_method}). p: {first.test}, unit {first.unit}, "
        f"two-sided, {first.correction}-corrected over {family}. "
        "\u2020 p < .05, \u2021 p < .01. d_z: mean over standard deviation of the seed-averaged differences."
    )


def condensed(notes: Iterable[str]) -> list[str]:
    """Notes ``kind: case`` of one kind as one: ``kind: case; case; case; and 5 more like these``."""
    said: dict[str, dict[str, None]] = {}
    for note in notes:
        head, _, rest = note.partition(": ")
        said.setdefault(head, {})[rest] = None
    found = []
    for head, cases in said.items():
        listed = list(cases)
        more = f"; and {len(listed) - _LISTED} more like these" if len(listed) > _LISTED else ""
        found.append(f"{head}: {'; '.join(listed[:_LISTED])}{more}".removesuffix(": "))
    return found
