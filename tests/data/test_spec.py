from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from recbole_kd.data.spec import DatasetSpec, read_dataset_spec
from recbole_kd.data.split import PROTOCOLS
from recbole_kd.errors import SpecError

FILES = sorted((Path(__file__).resolve().parents[2] / "properties" / "dataset").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_shipped_dataset_is_valid(path):
    spec = read_dataset_spec(str(path))
    assert spec.split.protocol in PROTOCOLS
    assert spec.source != "path" or not Path(spec.path).is_absolute()


def test_there_are_datasets_and_the_name_finds_them():
    assert {"ml-100k", "ml-1m", "ml-latest-small", "amazon-beauty"} <= {p.stem for p in FILES}
    assert read_dataset_spec("ml-100k").name == "ml-100k"


def test_a_relative_path_lies_in_the_data_root(monkeypatch, tiny_spec, tmp_path):
    relative = tiny_spec(path="shop")
    monkeypatch.delenv("RECBOLE_KD_DATA", raising=False)
    assert relative.folder() == Path("data/shop")
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    assert relative.folder() == tmp_path / "shop"
    assert tiny_spec(path="/elsewhere").folder() == Path("/elsewhere")


def test_ml_100k_comes_with_recbole():
    assert (read_dataset_spec("ml-100k").folder() / "ml-100k.inter").is_file()


def test_unknown_key_names_file_line_and_the_nearest_key(tmp_path):
    text = FILES[0].read_text().replace("max_item_list_length", "max_item_list_len")
    (tmp_path / "own.yaml").write_text(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("max_item"))
    with pytest.raises(SpecError, match=rf"own\.yaml.*{line}.*did you mean 'max_item_list_length'"):
        read_dataset_spec(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "recbole"},
        {"path": None},
        {"name": "../evil"},
        {"text": {"title": "absent"}},
        {"split": {"quantile": 1.0}},
        {"filter": {"min_user_inter": -1}},
        {"filter": {"min_users": 3}},
    ],
)
def test_contradictions_are_refused(tiny_spec, change):
    with pytest.raises(ValidationError):
        tiny_spec(**change)


def test_survives_yaml(tiny_spec):
    spec = tiny_spec()
    assert DatasetSpec.model_validate(yaml.safe_load(yaml.safe_dump(spec.canonical()))) == spec
