"""The protocol box: what was split how, in figures that belong next to every number."""

from __future__ import annotations

from typing import Any

from recbole_kd.data.spec import DatasetSpec
from recbole_kd.data.split import PROTOCOLS, parameters
from recbole_kd.data.types import Split


def split_report(split: Split, spec: DatasetSpec) -> dict[str, Any]:
    """Describe dataset, filter and split; JSON-ready.

    ``counts`` joins what reading, filtering and splitting counted.
    """
    dataset, protocol = split.dataset, PROTOCOLS[spec.split.protocol]
    users, items = dataset.n_users - 1, dataset.n_items - 1
    n = len(dataset.sequences.items)
    return {
        "dataset": dataset.name,
        "users": users,
        "items": items,
        "interactions": n,
        "density": n / (users * items),
        "mean_length": n / users,
        "filter": spec.filter.canonical(),
        "split": spec.split.protocol,
        "split_parameters": parameters(spec.split),
        "split_description": protocol.description,
        "max_item_list_length": spec.max_item_list_length,
        "candidates": "all items",
        "seen_items": "kept among the candidates; *_masked columns remove them",
        "dataset_digest": dataset.digest,
        "split_digest": split.digest,
        "counts": {**dataset.counts, **split.counts},
    }


def split_report_lines(report: dict[str, Any]) -> list[str]:
    """Render ``split_report`` as the lines of the box, short users always named."""
    counts, kept = report["counts"], report["filter"]
    rule = "iterated" if kept["iterate"] else "once"
    rating = "any rating" if kept["min_rating"] is None else f"rating >= {kept['min_rating']:g}"
    lines = [
        f"{report['dataset']}: {report['users']:,} users, {report['items']:,} items, "
        f"{report['interactions']:,} interactions, {report['mean_length']:.1f} per user, "
        f"density {report['density']:.2%}",
        f"filter: {rating}, interactions of a user >= {kept['min_user_inter']}, of an item >= "
        f"{kept['min_item_inter']} ({rule}); dropped {counts['dropped_by_rating']:,} by rating, "
        f"{counts['dropped_by_count']:,} by count",
        f"split: {report['split']} ({report['split_description']})",
        f"train {counts['train_users']:,} users, {counts['train_interactions']:,} interactions; "
        f"valid {counts['valid_users']:,} users; test {counts['test_users']:,} users",
        f"targets never trained: valid {counts['cold_valid_targets']:,}, "
        f"test {counts['cold_test_targets']:,}",
        f"candidates: {report['candidates']}; seen items: {report['seen_items']}",
    ]
    short = {k: v for k, v in counts.items() if k.startswith(("users_with_", "test_users_"))}
    if any(short.values()):
        named = ", ".join(f"{key.replace('_', ' ')}: {value:,}" for key, value in short.items())
        lines.insert(4, f"short users: {named}")
    return lines
