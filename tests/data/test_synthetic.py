"""The positive control's generator: counted, not believed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recbole_kd.data.load import load_dataset, load_item_texts
from recbole_kd.data.spec import read_dataset_spec
from recbole_kd.data.split import make_split
from recbole_kd.data.synthetic import SyntheticSpec, atomic_files, generate
from recbole_kd.errors import DataError

VALUES = {
    "users": 300,
    "traits": 6,
    "items_per_trait": 30,
    "shortest": 8,
    "longest": 12,
    "own_share": 0.4,
    "seed": 1,
}


def spec(**changes):
    return SyntheticSpec(**{**VALUES, **changes})


def test_interactions_follow_the_trait_as_often_as_stated():
    histories, traits = generate(spec(users=3000, items_per_trait=300))
    own = [item // 300 == trait for h, trait in zip(histories, traits, strict=True) for item in h]
    # A draw of anything falls into the own pool by chance in 1 of 6.
    assert np.mean(own) == pytest.approx(0.4 + 0.6 / 6, abs=0.015)
    assert max(Counter(traits).values()) - min(Counter(traits).values()) == 0
    assert {len(h) for h in histories} == set(range(8, 13))
    assert all(len(set(h)) == len(h) for h in histories)
    assert {i for h in generate(spec())[0] for i in h} == set(range(180))


def test_extremes_of_the_share():
    histories, traits = generate(spec(own_share=1.0))
    assert all(item // 30 == t for h, t in zip(histories, traits, strict=True) for item in h)
    histories, traits = generate(spec(users=3000, own_share=0.0))
    own = [item // 30 == t for h, t in zip(histories, traits, strict=True) for item in h]
    assert np.mean(own) == pytest.approx(1 / 6, abs=0.015)


def test_same_seed_same_bytes_other_seed_others():
    assert atomic_files("x", spec()) == atomic_files("x", spec())
    assert atomic_files("x", spec())["x.inter"] != atomic_files("x", spec(seed=2))["x.inter"]


def test_words_name_the_trait_and_the_interactions_do_not():
    files = atomic_files("x", spec())
    themes = dict(line.split("\t")[::2] for line in files["x.item"].splitlines()[1:])
    assert themes["i0"] != themes["i30"]
    assert themes["i0"] == themes["i29"]
    assert not any(theme in files["x.inter"] for theme in set(themes.values()))


def test_signal_of_the_shipped_dataset_is_counted_from_its_train_part(monkeypatch, tmp_path):
    """d_u * d_i * own_share ** 4, with the mean degrees that the split really has."""
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    shipped = read_dataset_spec("synthetic-trait")
    split = make_split(load_dataset(shipped), shipped.split)
    per_user = split.train.lengths.mean()
    per_item = len(split.train.items) / shipped.synthetic.n_items
    assert shipped.synthetic.signal == pytest.approx(per_user * per_item * 0.4**4, rel=0.05)
    assert 1 < shipped.synthetic.signal < 3
    assert len(split.test) == shipped.synthetic.users
    assert split.dataset.n_items - 1 == len(load_item_texts(shipped)) == shipped.synthetic.n_items


def test_files_are_written_once_below_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    shipped = read_dataset_spec("synthetic-trait")
    folder = shipped.folder()
    assert folder.is_relative_to(tmp_path / "synthetic")
    before = (folder / "synthetic-trait.inter").stat().st_mtime_ns
    assert shipped.folder() == folder
    assert (folder / "synthetic-trait.inter").stat().st_mtime_ns == before
    other = shipped.model_copy(update={"synthetic": shipped.synthetic.model_copy(update={"seed": 3})})
    assert other.folder() != folder
    assert not [p for p in (tmp_path / "synthetic").iterdir() if p.name.startswith(".")]


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="RECBOLE_KD_DATA"):
        read_dataset_spec("synthetic-trait").folder()
    assert Path(tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shortest": 9, "longest": 8}, "exceeds"),
        ({"longest": 31, "own_share": 1.0}, "too long"),
        ({"traits": 1000}, "less than or equal"),
    ],
)
def test_impossible_parameters_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        spec(**changes)


def test_generator_s_parameters_are_no_part_of_an_address_beyond_the_files(monkeypatch, tmp_path):
    """What is in the files decides, as for every dataset."""
    from recbole_kd.benchmark import rooms
    from recbole_kd.benchmark.spec import _DATASET_LABELS

    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    shipped, source = rooms.dataset("synthetic-trait")
    assert "synthetic" in _DATASET_LABELS
    changed = shipped.model_copy(update={"synthetic": shipped.synthetic.model_copy(update={"seed": 3})})
    assert rooms.dataset_source(changed)["inter"] != source["inter"]
