"""Parameters of runs, read from their ``spec.yaml``, for curves over a swept value."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.load import Results
from analysis.summary import summarise
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.metrics import standard_name


def read_spec(path: Path) -> dict[str, Any]:
    """The resolved cell of a run directory.

    Raises
    ------
    StoreError
        ``spec.yaml`` is missing or no mapping.
    """
    try:
        value = yaml.safe_load((path / "spec.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StoreError(f"{path / 'spec.yaml'}: not readable ({str(error).splitlines()[0]})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path / 'spec.yaml'}: expected a mapping")
    return value


# What a spec records beside its settings: which run of a set it is, and what follows from the settings.
_NO_SETTING = ("seed", "inputs", "dataset_source", "teacher_source", "teacher.description")
_COLUMNS = ("dataset", "backbone", "variant", "value", "mean", "sd", "n_seeds", "line")


def _specs(results: Results) -> dict[str, dict[str, Any]]:
    """Flat spec of every done cell."""
    return {row.cell: _flatten(read_spec(Path(row.path))) for row in results.done.itertuples()}


def _key(flat: dict[str, Any], name: str) -> str | None:
    """The path that ``name`` names in a flat spec; None without one."""
    keys = [k for k in flat if k == name or k.endswith(f".{name}")]
    if len(keys) > 1 and name not in keys:
        raise SpecError(f"parameter '{name}' is ambiguous: {', '.join(sorted(keys))}")
    return name if name in keys else keys[0] if keys else None


def _check(specs: dict[str, dict[str, Any]], name: str) -> None:
    if not specs or any(_key(flat, name) for flat in specs.values()):
        return
    paths = sorted({k for flat in specs.values() for k in flat})
    # Who writes a path means a path.
    known = paths if "." in name else sorted({k.rpartition(".")[2] for k in paths})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; the spec.yaml of a run lists what there is"
    raise SpecError(f"parameter '{name}': no run has it{hint}")


def parameter(results: Results, name: str) -> pd.Series:
    """Value of one parameter for every done cell.

    Parameters
    ----------
    name : str
        Dotted path into ``spec.yaml``, such as ``student.distill.alpha``, or its last part where
        that is unique (``alpha``).

    Returns
    -------
    Series indexed by cell
        None where a spec lacks it.

    Raises
    ------
    SpecError
        No run has it, or it is ambiguous.
    """
    specs = _specs(results)
    _check(specs, name)
    return pd.Series(_values(specs, name), name=name, dtype=object)


def _values(specs: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    keys = {cell: _key(flat, name) for cell, flat in specs.items()}
    return {cell: specs[cell][key] if key else None for cell, key in keys.items()}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _others(flat: dict[str, Any], name: str) -> str:
    """All settings but one parameter."""
    key = _key(flat, name)
    rest = {
        k: v
        for k, v in flat.items()
        if k != key and not any(k == own or k.startswith(f"{own}.") for own in _NO_SETTING)
    }
    return json.dumps(rest, sort_keys=True, default=str)


def curve_frame(results: Results, name: str, metric: str | None = None) -> pd.DataFrame:
    """Mean and sd over seeds of a metric against a swept numeric parameter.

    Returns
    -------
    DataFrame
        ``dataset, backbone, variant, value, mean, sd, n_seeds, line``, ascending value; variants whose
        specs lack the parameter (such as the baseline) have ``value`` NaN. Rows with the same ``line``
        differ in nothing but the parameter.

    Raises
    ------
    SpecError
        No run has the parameter, or it is ambiguous, or differs between seeds.
    """
    chosen = standard_name(metric or results.metrics[0])
    specs = _specs(results)
    _check(specs, name)
    values = pd.Series(_values(specs, name), name=name, dtype=object)
    rows = []
    lines: dict[tuple[str, str, str], int] = {}
    for (method, _), summary in summarise(results, [chosen]).items():
        cells = list(results.cells(*method).values())
        own = pd.to_numeric(values.reindex(cells), errors="coerce").unique()
        if len(own) > 1:
            raise SpecError(f"parameter '{name}' differs between the seeds of {' '.join(method)}")
        if summary.means:
            row: dict[str, Any] = dict(zip(("dataset", "backbone", "variant"), method, strict=True))
            row |= {"value": float(own[0]), "mean": summary.mean, "sd": summary.sd}
            alike = (*method[:2], _others(specs[cells[0]], name))
            rows.append(row | {"n_seeds": len(summary.means), "line": lines.setdefault(alike, len(lines))})
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.sort_values(["dataset", "backbone", "value"], ignore_index=True, kind="stable")
