import numpy as np
import pytest

from recbole_kd.data.item_vectors import load_item_vectors, write_item_vectors
from recbole_kd.errors import ProfileError
from tests.students import tiny_split


def test_vectors_come_back_by_item_id_whatever_the_order_of_rows(tmp_path):
    dataset = tiny_split().dataset
    tokens = ["i7", "i2", "unknown"]
    write_item_vectors(tmp_path / "v.parquet", tokens, np.arange(6).reshape(3, 2), {"encoder": {"kind": "x"}})
    found = load_item_vectors(tmp_path / "v.parquet", dataset)
    assert found.vectors.shape == (dataset.n_items, 2)
    assert found.vectors[7].tolist() == [0, 1]
    assert found.vectors[2].tolist() == [2, 3]
    assert not found.vectors[[0, 1, 3]].any()
    assert found.coverage == pytest.approx(2 / (dataset.n_items - 1))
    assert found.manifest["encoder"] == {"kind": "x"}


@pytest.mark.parametrize(
    ("tokens", "vectors", "said"),
    [
        (["i1", "i1"], np.ones((2, 2)), "twice"),
        (["i1", "i2"], np.array([[1.0], [np.nan]]), "row 1"),
        (["i1"], np.ones((2, 2)), "shape"),
    ],
)
def test_bad_rows_leave_nothing_behind(tmp_path, tokens, vectors, said):
    with pytest.raises(ProfileError, match=said):
        write_item_vectors(tmp_path / "v.parquet", tokens, vectors, {})
    assert not list(tmp_path.iterdir())


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "v.parquet"
    with pytest.raises(ProfileError, match="no such file"):
        load_item_vectors(path, tiny_split().dataset)
    path.write_text("no parquet")
    with pytest.raises(ProfileError, match="not a file of item vectors"):
        load_item_vectors(path, tiny_split().dataset)
    write_item_vectors(path, ["elsewhere"], np.ones((1, 2)), {})
    with pytest.raises(ProfileError, match="no item of dataset tiny"):
        load_item_vectors(path, tiny_split().dataset)
