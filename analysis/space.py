"""Profiles and students of the same users side by side, from ``space.parquet`` (made by ``extras``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from analysis.load import Results
from recbole_kd.errors import StoreError

FILE = "space.parquet"
ATTRIBUTE = "category favoured in the train history"
_COLUMNS = ("dataset", "backbone", "baseline", "variant", "seed", "space", "user", "attribute", "vector")


@dataclass(frozen=True)
class Spaces:
    """Vectors of the same users in several spaces.

    Attributes
    ----------
    dataset, backbone, baseline, variant : str
    seed : int
    vectors : dict of str to float64 [U, D]
        ``profiles``, then the baseline's and the variant's student; widths may differ.
    attribute : tuple of str, [U]
    """

    dataset: str
    backbone: str
    baseline: str
    variant: str
    seed: int
    vectors: dict[str, NDArray[np.float64]]
    attribute: tuple[str, ...]


def read_spaces(results: Results) -> list[Spaces]:
    """One entry per dataset; empty where nobody made the file.

    Raises
    ------
    StoreError
        The file is not readable, or its spaces are not of the same users.
    """
    path = results.directory / FILE
    if not path.exists():
        return []
    try:
        frame = pd.read_parquet(path, columns=list(_COLUMNS))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: not readable ({str(error).splitlines()[0]}); delete it") from None
    return [_of(part) for part in _parts(frame)]


def _parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, part in frame.groupby("dataset", sort=False):
        yield part


def _of(part: pd.DataFrame) -> Spaces:
    first = part.iloc[0]
    groups = {str(name): rows.set_index("user") for name, rows in part.groupby("space", sort=False)}
    users = next(iter(groups.values())).index
    for name, rows in groups.items():
        if not rows.index.equals(users):
            raise StoreError(f"{FILE}: space '{name}' of {first['dataset']} has other users; delete the file")
    own = (str(first["dataset"]), str(first["backbone"]), str(first["baseline"]), str(first["variant"]))
    vectors = {name: np.stack(list(rows["vector"])).astype(np.float64) for name, rows in groups.items()}
    attribute = tuple(next(iter(groups.values()))["attribute"].astype(str))
    return Spaces(*own, int(first["seed"]), vectors, attribute)
