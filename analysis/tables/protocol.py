"""What every number rests on: dataset version, filter, split, candidates, seen-item rule, loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import wording
from analysis.load import Results, shared_protocol
from analysis.table import Cell, Column, Table

_HEADS = {
    "dataset": "Dataset",
    "of": "Runs",
    "version": "Version",
    "users": "Users",
    "items": "Items",
    "interactions": "Interactions",
    "filter": "Filter",
    "split": "Split",
    "split_version": "Split version",
    "max_length": "Items seen",
    "candidates": "Candidates",
    "reranked": "Re-ranked",
    "seen_items": "Own history",
    "ties": "Ties",
    "loss": "Loss",
    "selected_by": "Selected by",
}


def protocol_frame(results: Results) -> pd.DataFrame:
    """One row per dataset and protocol; ``of`` names the backbones (or methods) that were run under it."""
    indexed = results.done.drop_duplicates("cell").set_index("cell")
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in indexed.index:
        manifest = results.manifests[cell]
        reranked = (manifest.get("protocol") or {}).get("re-ranked")
        digests = [manifest.get(name) for name in ("dataset_digest", "split_digest")]
        key = json.dumps(
            [shared_protocol(manifest), reranked, *digests],
            sort_keys=True,
            default=str,
        )
        groups.setdefault((str(indexed.loc[cell, "dataset"]), key), []).append(cell)
    rows = []
    for (dataset, _), cells in groups.items():
        manifest = results.manifests[cells[0]]
        whole = sum(other == dataset for other, _ in groups) == 1
        name = "variant" if (manifest.get("protocol") or {}).get("re-ranked") else "backbone"
        of = "all" if whole else wording.listing(dict.fromkeys(indexed.loc[c, name] for c in cells))
        rows.append({"dataset": dataset, "of": of} | _entries(results, manifest))
    return pd.DataFrame(rows, columns=list(_HEADS))


def _entries(results: Results, manifest: Mapping[str, Any]) -> dict[str, Any]:
    stated = manifest.get("protocol") or {}
    parameters = stated.get("split_parameters") or {}
    split = str(stated.get("split", "unknown"))
    if parameters:
        named = {**parameters, **(parameters.get("holdout") or {})}
        named.pop("holdout", None)
        sample = named.pop("sample", None) or {}
        named |= {f"train {k}": v for k, v in sample.items() if v is not None and k != "seed"}
        split += f" ({', '.join(f'{k} {v}' for k, v in sorted(named.items()))})"
    return {
        "version": manifest.get("dataset_digest") or stated.get("dataset_digest"),
        "users": stated.get("users"),
        "items": stated.get("items"),
        "interactions": stated.get("interactions"),
        "filter": _filter(stated.get("filter")),
        "split": split,
        "split_version": manifest.get("split_digest"),
        "max_length": stated.get("max_item_list_length"),
        "candidates": stated.get("candidates"),
        "reranked": stated.get("re-ranked"),
        "seen_items": "removed" if results.masked else "kept",
        "ties": stated.get("ties"),
        "loss": stated.get("loss"),
        "selected_by": stated.get("selected_by"),
    }


# What a method may have of its own: entry, whose it is, and how it is said.
_OWN = (
    ("pretraining", "{0.backbone} {0.variant}", "Pre-training of {who}: {what}."),
    ("kept_epochs", "{0.backbone}", "Selected among epochs {what}: {who}."),
)


def _own_affairs(results: Results) -> tuple[str, ...]:
    """One line for everything that a method was pre-trained on, and for every range of epochs."""
    cells = list(results.done.drop_duplicates("cell").itertuples())
    lines = []
    for entry, whose, said in _OWN:
        found: dict[str, dict[str, None]] = {}
        for row in cells:
            what = (results.manifests[row.cell].get("protocol") or {}).get(entry)
            if what is not None:
                found.setdefault(str(what), {})[whose.format(row)] = None
        lines += [said.format(who=wording.listing(who), what=what) for what, who in found.items()]
    return tuple(lines)


def _filter(kept: Any) -> str:
    if not isinstance(kept, dict):
        return "unknown"
    parts = []
    if kept.get("min_rating") is not None:
        parts.append(f"rating \u2265 {kept['min_rating']:g}")
    for key, name in (("min_user_inter", "user"), ("min_item_inter", "item")):
        if kept.get(key):
            parts.append(f"{name} \u2265 {kept[key]}")
    if not parts:
        return "none"
    return ", ".join(parts) + (" (iterated)" if kept.get("iterate") else " (once)")


def protocol_table(results: Results) -> Table:
    """The protocol of every number of an experiment, printed beside them."""
    frame = protocol_frame(results)
    # Only where there is a language model in the loop.
    heads = {k: head for k, head in _HEADS.items() if k != "reranked" or frame[k].notna().any()}
    rows = tuple(tuple(_cell(row[name]) for name in heads) for row in frame.to_dict("records"))
    right = {"users", "items", "interactions", "max_length"}
    return Table(
        name="protocol",
        title=f"{results.experiment}: protocol",
        caption=(
            "What the numbers rest on. Version: digest of the interactions after reading; split version: "
            "digest of the split. Filter: interactions that a user or item must have. Numbers of different "
            "versions, splits, candidates or seen-item rules are not to be compared."
        ),
        columns=tuple(Column(head, "r" if name in right else "l") for name, head in heads.items()),
        rows=rows,
        groups=tuple(range(len(rows))),
        notes=_own_affairs(results),
        frame=frame,
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}", sort=value)
    return Cell("\u2013" if value is None or value != value else str(value))


def protocol_lines(results: Results) -> list[str]:
    """The same for a terminal: one line per dataset and protocol, and what methods have of their own."""
    lines = []
    for row in protocol_frame(results).to_dict("records"):
        who = row["dataset"] if row["of"] == "all" else f"{row['dataset']}, {row['of']}"
        size = ", ".join(f"{_cell(row[k]).text} {k}" for k in ("users", "items", "interactions"))
        rest = "; ".join(
            f"{_HEADS[k].lower()}: {_cell(row[k]).text}"
            for k in ("filter", "split", "candidates", "reranked", "seen_items", "loss", "selected_by")
            if k != "reranked" or row[k]
        )
        lines.append(f"protocol of {who} (version {row['version']}): {size}; {rest}")
    return [*lines, *_own_affairs(results)]
