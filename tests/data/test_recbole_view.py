from __future__ import annotations

import numpy as np
import pytest

from recbole_kd.data.split import make_split
from recbole_kd.errors import DataError

torch = pytest.importorskip("torch")
pytest.importorskip("recbole")

from recbole.data.dataset import Dataset as RecBoleDataset  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402

from recbole_kd.compat import recbole_config  # noqa: E402
from recbole_kd.data.recbole_view import Catalogue, recbole_loaders, recbole_view  # noqa: E402

SMALL = {"hidden_size": 8, "inner_size": 8, "n_heads": 2, "train_batch_size": 64, "eval_batch_size": 64}


def evaluated(part):
    """user id -> (history, target) of an EvalSet."""
    return {
        int(u): (part.history.row(r).tolist(), int(part.targets[r])) for r, u in enumerate(part.history.users)
    }


def rows_of(loader):
    """user id -> (item_seq, target) of a RecBole loader's dataset."""
    inter = loader.dataset.inter_feat
    return {
        int(u): (seq[: int(n)].tolist(), int(i))
        for u, seq, n, i in zip(
            inter["user_id"], inter["item_id_list"], inter["item_length"], inter["item_id"], strict=True
        )
    }


def cut(pairs, length):
    return {user: (history[-length:], target) for user, (history, target) in pairs.items()}


@pytest.mark.parametrize("seed", range(6))
def test_leave_one_out_is_recboles_short_users_included(tiny, tiny_spec, tmp_path, seed):
    random = np.random.default_rng(seed)
    rows = [
        (f"u{u}", f"i{random.integers(12)}", 1.0, float(random.integers(978300700, 978300800)))
        for u, n in enumerate([1, 2, 3, 4, 9, *random.integers(1, 8, 12)])
        for _ in range(n)
    ]
    rows = [rows[i] for i in random.permutation(len(rows))]
    split = make_split(tiny(rows), tiny_spec().split)
    data = recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")
    assert rows_of(data.valid) == cut(evaluated(split.valid), 5)
    assert rows_of(data.test) == cut(evaluated(split.test), 5)
    ours = {
        (int(u), tuple(split.train.row(r)[max(0, k - 5) : k].tolist()), int(split.train.row(r)[k]))
        for r, u in enumerate(split.train.users)
        for k in range(1, len(split.train.row(r)))
    }
    inter = data.train.dataset.inter_feat
    theirs = {
        (int(u), tuple(seq[: int(n)].tolist()), int(i))
        for u, seq, n, i in zip(
            inter["user_id"], inter["item_id_list"], inter["item_length"], inter["item_id"], strict=True
        )
    }
    assert theirs == ours


def test_ml_100k_ids_and_split_are_recboles(ml_100k, tmp_path):
    spec, split = ml_100k
    data = recbole_loaders(split, SASRec, SMALL, max_item_list_length=10, checkpoint_dir=tmp_path / "ck")
    assert rows_of(data.valid) == cut(evaluated(split.valid), 10)
    assert rows_of(data.test) == cut(evaluated(split.test), 10)
    # Plain RecBole on the original file comes to the same ids, so a state dict moves over as it is.
    settings = {"data_path": str(spec.folder().parent), "load_col": {"inter": ["user_id", "item_id"]}}
    plain = RecBoleDataset(recbole_config("SASRec", "ml-100k", settings | {"train_neg_sample_args": None}))
    assert plain.field2id_token["item_id"].tolist() == split.dataset.item_tokens.tolist()
    assert plain.field2id_token["user_id"].tolist() == split.dataset.user_tokens.tolist()


def test_float32_times_would_have_changed_the_test_items(tiny, tiny_spec, tmp_path):
    times = [978300767.0, 978300766.0, 978300765.0, 978300764.0, 978300763.0]
    split = make_split(tiny([("u", f"i{n}", 1.0, t) for n, t in enumerate(times)]), tiny_spec().split)
    data = recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")
    assert data.dataset.id2token("item_id", data.test.dataset.inter_feat["item_id"].numpy()).tolist() == [
        "i0"
    ]


def test_cheap_view_builds_the_same_model(tiny, tiny_spec, tmp_path):
    rows = [(f"u{u}", f"i{(u * 5 + k) % 13}", 1.0, float(k)) for u in range(9) for k in range(6)]
    split = make_split(tiny(rows), tiny_spec().split)
    data = recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")
    config, catalogue = recbole_view(split.dataset, SASRec, SMALL, max_item_list_length=5)
    models = []
    for pair in ((config, catalogue), (data.config, data.dataset)):
        torch.manual_seed(0)
        models.append(SASRec(*pair))
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for field in ("user_id", "item_id"):
        ids = np.arange(catalogue.num(field))
        assert catalogue.num(field) == data.dataset.num(field)
        assert catalogue.id2token(field, ids).tolist() == data.dataset.id2token(field, ids).tolist()
    assert (
        catalogue.token2id("item_id", ["i3", "i0"]).tolist()
        == data.dataset.token2id("item_id", ["i3", "i0"]).tolist()
    )
    assert catalogue.token2id("item_id", "i3") == data.dataset.token2id("item_id", "i3")
    assert (catalogue.user_num, catalogue.item_num) == (data.dataset.user_num, data.dataset.item_num)
    with pytest.raises(ValueError, match="not defined"):
        catalogue.num("brand")


def test_prefix_mode_leaves_nothing_but_checkpoints(tiny, tiny_spec, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").mkdir()
    split = make_split(tiny([("u", f"i{k}", 1.0, float(k)) for k in range(5)]), tiny_spec().split)
    recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["t", "tiny.inter"]


def test_prefix_mode_refuses_another_protocol(tiny, tiny_spec, tmp_path):
    rows = [(f"u{u}", f"i{k}", 1.0, 10.0 * k + 3 * u) for u in range(6) for k in range(5)]
    split = make_split(tiny(rows), tiny_spec(split={"protocol": "temporal"}).split)
    with pytest.raises(DataError, match="leave-one-out only"):
        recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")


@pytest.mark.parametrize("token", ["NA", "null", 'a"b'])
def test_ids_that_recboles_reader_would_lose_are_refused_by_name(tiny, tiny_spec, tmp_path, token):
    rows = [("u", item, 1.0, float(k)) for k, item in enumerate(["a", "b", "c", token, "d"])]
    dataset = tiny(rows)
    assert token in Catalogue(dataset).id2token("item_id", np.arange(dataset.n_items))
    with pytest.raises(DataError, match="field item"):
        recbole_loaders(
            make_split(dataset, tiny_spec().split),
            SASRec,
            SMALL,
            max_item_list_length=5,
            checkpoint_dir=tmp_path / "ck",
        )
