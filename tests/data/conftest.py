"""Small datasets written as atomic files, and the packaged ml-100k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_kd.data.load import load_dataset
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.data.split import make_split
from recbole_kd.data.types import Dataset, Split

ROOT = Path(__file__).resolve().parents[2]
Row = tuple[str, str, float, float]


def spec_of(folder: Path, **changes: Any) -> DatasetSpec:
    """The spec of a dataset ``tiny`` in ``folder``; nested mappings in ``changes`` are merged."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "domain": "generic",
        "source": "path",
        "path": str(folder),
        "fields": {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"},
        "text": {"title": "title", "fields": ["title", "category"]},
        "filter": {"min_rating": None, "min_user_inter": 0, "min_item_inter": 0, "iterate": True},
        "split": {"protocol": "leave-one-out", "seed": 7, "quantile": 0.8, "valid_user_share": 0.5},
        "max_item_list_length": 5,
    }
    for key, value in changes.items():
        merged = isinstance(raw.get(key), dict) and isinstance(value, dict)
        raw[key] = {**raw[key], **value} if merged else value
    return DatasetSpec.model_validate(raw)


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{rating}\t{time!r}" for user, item, rating, time in rows]
    (folder / "tiny.inter").write_bytes(("\n".join(lines) + "\n").encode())


@pytest.fixture
def tiny_spec(tmp_path: Path) -> Callable[..., DatasetSpec]:
    return lambda **changes: spec_of(tmp_path, **changes)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Dataset]:
    """Write rows ``(user, item, rating, time)`` and load them."""

    def build(rows: Sequence[Row], **changes: Any) -> Dataset:
        write_rows(tmp_path, rows)
        return load_dataset(spec_of(tmp_path, **changes))

    return build


@pytest.fixture(scope="session")
def ml_100k() -> tuple[DatasetSpec, Split]:
    raw = yaml.safe_load((ROOT / "properties" / "dataset" / "ml-100k.yaml").read_text())
    spec = DatasetSpec.model_validate(raw)
    return spec, make_split(load_dataset(spec), spec.split)
