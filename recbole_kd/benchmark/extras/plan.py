"""Which runs of an experiment the extras are made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import record, rundir
from recbole_kd.errors import StoreError


@dataclass(frozen=True)
class Pair:
    """Two runs of one dataset, backbone and seed: the baseline and a variant.

    Attributes
    ----------
    before, after : Path
        Run directories of the baseline and of the variant.
    """

    dataset: str
    backbone: str
    variant: str
    baseline: str
    seed: int
    before: Path
    after: Path


def read_plan(folder: Path) -> dict[str, Any]:
    """``experiment.json`` of an experiment's folder.

    Raises
    ------
    StoreError
    """
    path = folder / record.FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not readable ({error}); give the folder that 'run' wrote") from None
    if not isinstance(value, dict) or not isinstance(value.get("cells"), list):
        raise StoreError(f"{path}: is no record of an experiment; give the folder that 'run' wrote")
    return value


def results_of(folder: Path) -> Path:
    """Results folder of an experiment's folder."""
    return folder.resolve().parent


def done_runs(folder: Path, plan: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Path]]:
    """(planned cell, run directory) of every cell that exists."""
    for cell in plan["cells"]:
        run = rundir.run_path(results_of(folder), str(cell["cell"]))
        if (run / rundir.MANIFEST).is_file():
            yield cell, run


def pairs(folder: Path, plan: Mapping[str, Any]) -> list[Pair]:
    """Per dataset one pair: the first backbone and seed that has the baseline and a distilled variant.

    A variant whose profiles a language model wrote comes first, then any with a teacher, then any.
    """
    found: dict[str, dict[tuple[str, int], dict[str, Path]]] = {}
    for cell, run in done_runs(folder, plan):
        group = found.setdefault(str(cell["dataset"]), {})
        group.setdefault((str(cell["backbone"]), int(cell["seed"])), {})[str(cell["variant"])] = run
    baseline = str(plan["baseline"])
    chosen = []
    for dataset, groups in found.items():
        for (backbone, seed), runs in groups.items():
            others = {v: r for v, r in runs.items() if v != baseline}
            if baseline in runs and others:
                variant = min(others, key=lambda v: _order(others[v]))
                own = (dataset, backbone, variant, baseline, seed)
                chosen.append(Pair(*own, runs[baseline], others[variant]))
                break
    return chosen


def _order(run: Path) -> int:
    profile = rundir.read_manifest(run).get("profile")
    if not isinstance(profile, dict):
        return 3
    writer = profile.get("writer") or {}
    if profile.get("placebo") is not None:
        return 2
    return 1 if writer.get("model") in (None, "template") else 0
