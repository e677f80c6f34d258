"""``tuning.json``: what a search tried for every method, and the best of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import record, rundir
from recbole_kd.errors import StoreError

FILE = "tuning.json"
Point = dict[str, Any]
Method = tuple[str, str, str]


def read_history(path: Path) -> dict[Method, Mapping[str, Any]]:
    """Studies of a history, by method; empty without a file.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    try:
        return _by_method(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        # The journal beside it has every trial: tuning the others again costs seconds.
        raise StoreError(f"{path}: cannot be read ({error}); delete it, then tune all again") from error


def write_history(path: Path, before: dict[Method, Mapping[str, Any]], now: list[dict[str, Any]]) -> None:
    """Write the studies of ``now``, and those of ``before`` of other methods (``tune --only``)."""
    merged = before | {_method_of(study): study for study in now}
    rundir.write_text_atomic(path, json.dumps(list(merged.values()), indent=1) + "\n")


def alike(
    results: Path, name: str, methods: Mapping[Method, str], others: Mapping[Method, str]
) -> list[Method]:
    """Those of ``others`` that were tuned as they are now, with the trials and the space of ``methods``.

    Without ``methods``, those that were tuned as most of them.

    Parameters
    ----------
    methods, others : mapping
        Method -> its configuration now, see :func:`best_points`.

    Raises
    ------
    StoreError
        Without ``methods``: one of ``others`` was tuned for another configuration.
    """
    path = record.folder(results, name) / FILE
    try:
        found = _by_method(path)
    except (OSError, ValueError):
        return []
    scored = {m: s for m, s in found.items() if any(t["value"] is not None for t in s["trials"])}
    if not methods:
        _check_configurations(path, name, scored, others)
    same = {m for m, now in {**others, **methods}.items() if m in scored and _is_of(scored[m], now)}
    ways = {m: (len(scored[m]["trials"]), scored[m].get("search")) for m in same}
    listed = [ways[m] for m in methods or others if m in ways]
    common = Counter(listed).most_common(1)
    return [m for m in others if common and ways.get(m) == common[0][0]]


def _by_method(path: Path) -> dict[Method, Mapping[str, Any]]:
    """Studies of a history.

    Raises
    ------
    OSError, ValueError
        The file is missing or damaged.
    """
    try:
        return {_method_of(study): study for study in json.loads(path.read_text(encoding="utf-8"))}
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of studies: {error}") from error


def _method_of(study: Mapping[str, Any]) -> Method:
    return study["dataset"], study["backbone"], study["variant"]


def _is_of(study: Mapping[str, Any], configuration: str) -> bool:
    return study.get("configuration") == configuration


def _check_configurations(
    path: Path, name: str, found: Mapping[Method, Mapping[str, Any]], methods: Mapping[Method, str]
) -> None:
    """Refuse a method whose data, settings or teacher have changed since; its points are another one's."""
    for method, now in methods.items():
        if method in found and not _is_of(found[method], now):
            raise StoreError(
                f"{path}: '{' '.join(method)}' was tuned for another configuration; "
                f"run 'run_benchmark.py tune {name}' again"
            )


def best_points(results: Path, name: str, methods: Mapping[Method, str]) -> dict[Method, Point]:
    """Best parameters of every method, for ``run --tuned``.

    Parameters
    ----------
    methods : mapping
        Method -> its configuration now: the address of what was tuned, as its study names it.

    Raises
    ------
    StoreError
        Nothing was tuned, a method is missing or was another one when it was tuned, or the methods had
        different numbers of trials or were searched in another way (``--space``).
    """
    path = record.folder(results, name) / FILE
    try:
        found = _by_method(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read; run 'run_benchmark.py tune {name}' first") from error
    points, counts = {}, {}
    for method in methods:
        trials = found.get(method, {}).get("trials", [])
        scored = [t for t in trials if t["value"] is not None]
        if not scored:
            raise StoreError(
                f"{path}: '{' '.join(method)}' was not tuned; run 'run_benchmark.py tune {name}' again"
            )
        counts[method] = len(trials)
        points[method] = max(scored, key=lambda t: (t["value"], -t["number"]))["params"]
    _check_configurations(path, name, found, methods)
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise StoreError(
            f"{path}: unfair: '{' '.join(few)}' had {counts[few]} trials, '{' '.join(many)}' {counts[many]}; "
            f"run 'run_benchmark.py tune {name}' to the end"
        )
    ways = {method: found[method].get("search") for method in methods}
    if len(set(ways.values())) > 1:
        first = next(iter(methods))
        odd = next(m for m in methods if ways[m] != ways[first])
        raise StoreError(
            f"{path}: unfair: '{' '.join(first)}' and '{' '.join(odd)}' were not tuned with the same "
            f"'--space'; run 'run_benchmark.py tune {name}' for both"
        )
    return points
