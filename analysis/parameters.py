"""Parameters of runs, read from their ``spec.yaml``, for curves over a swept value."""

from __future__ import annotations

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
    """
    found = {}
    for row in results.done.itertuples():
        flat = _flatten(read_spec(Path(row.path)))
        keys = [k for k in flat if k == name or k.endswith(f".{name}")]
        if len(keys) > 1 and name not in keys:
            raise SpecError(f"parameter '{name}' is ambiguous: {', '.join(sorted(keys))}")
        found[row.cell] = flat[name if name in keys else keys[0]] if keys else None
    return pd.Series(found, name=name, dtype=object)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def curve_frame(results: Results, name: str, metric: str | None = None) -> pd.DataFrame:
    """Mean and sd over seeds of a metric against a swept numeric parameter.

    Returns
    -------
    DataFrame
        ``dataset, backbone, variant, value, mean, sd, n_seeds``, ascending value; variants whose
        specs lack the parameter (such as the baseline) have ``value`` NaN.
    """
    chosen = standard_name(metric or results.metrics[0])
    values = parameter(results, name)
    rows = []
    for (method, _), summary in summarise(results, [chosen]).items():
        own = pd.to_numeric(values.reindex(list(results.cells(*method).values())), errors="coerce").unique()
        if len(own) > 1:
            raise SpecError(f"parameter '{name}' differs between the seeds of {' '.join(method)}")
        if summary.means:
            row: dict[str, Any] = dict(zip(("dataset", "backbone", "variant"), method, strict=True))
            row |= {"value": float(own[0]), "mean": summary.mean, "sd": summary.sd}
            rows.append(row | {"n_seeds": len(summary.means)})
    return pd.DataFrame(rows).sort_values(["dataset", "backbone", "value"], ignore_index=True, kind="stable")
