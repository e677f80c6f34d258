"""The shims do what RecBole needs and leave everybody else alone."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("recbole")

import recbole.evaluator.metrics as recbole_metrics  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402

from recbole_kd.compat import PrefixTrainer, recbole_config, recbole_name  # noqa: E402
from recbole_kd.data.load import load_dataset  # noqa: E402
from recbole_kd.data.recbole_view import recbole_loaders  # noqa: E402
from recbole_kd.data.spec import DatasetSpec  # noqa: E402
from recbole_kd.data.split import make_split  # noqa: E402

SMALL = {"hidden_size": 8, "inner_size": 8, "n_heads": 2, "train_batch_size": 64, "epochs": 2}


def config(**values):
    return recbole_config("SASRec", "any", {"train_neg_sample_args": None, **values})


def test_config_leaves_the_world_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--hidden_size=999", "--seed=1", "stray"])
    environment, resolvers = dict(os.environ), dict(yaml.FullLoader.yaml_implicit_resolvers)
    made = config()
    assert made["hidden_size"] == 64
    assert sys.argv[1:] == ["--hidden_size=999", "--seed=1", "stray"]
    assert dict(os.environ) == environment
    assert yaml.FullLoader.yaml_implicit_resolvers == resolvers
    assert not {"float", "float_", "int", "object", "unicode_"} & set(vars(np))
    assert np.long is not np.int_ or np.dtype("l") == np.dtype(np.int_)


def test_strings_are_values_not_code():
    assert config(note="__import__('os').getcwd()")["note"] == "__import__('os').getcwd()"


def test_recboles_own_defaults_are_read_as_numbers():
    made = config(device="cpu")
    assert made["layer_norm_eps"] == 1e-12
    assert made["learning_rate"] == 0.001
    assert made["device"] == torch.device("cpu")
    assert made["use_gpu"] is False


def test_a_subclass_has_its_parents_name():
    class Mine(SASRec):
        pass

    assert recbole_name(Mine) == "SASRec"
    assert recbole_config(Mine, "any", {"train_neg_sample_args": None})["model"] == "SASRec"
    with pytest.raises(TypeError, match="no RecBole model"):
        recbole_name(int)


def test_recboles_metrics_and_interactions_run_on_this_numpy():
    hits = np.array([[False, True, False], [True, False, False]])
    ndcg = recbole_metrics.NDCG(config(metrics=["NDCG"], topk=[3])).metric_info(hits, np.array([1, 1]))
    assert ndcg[:, 2].tolist() == pytest.approx([1 / np.log2(3), 1.0])
    assert Interaction({"x": np.array([1.0, 2.0])})["x"].tolist() == [1.0, 2.0]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A PrefixTrainer after two epochs on a small dataset, run in an empty folder."""
    rows = [f"u{u}\ti{(u * 5 + k) % 13}\t{k}" for u in range(30) for k in range(8)]
    (tmp_path / "tiny.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows))
    spec = DatasetSpec.model_validate(
        {
            "name": "tiny",
            "domain": "generic",
            "source": "path",
            "path": str(tmp_path),
            "fields": {"user": "user_id", "item": "item_id", "rating": None, "time": "timestamp"},
            "text": None,
            "filter": {"min_rating": None, "min_user_inter": 0, "min_item_inter": 0, "iterate": True},
            "split": {"protocol": "leave-one-out", "seed": 7, "quantile": 0.8, "valid_user_share": 0.5},
            "max_item_list_length": 5,
        }
    )
    split = make_split(load_dataset(spec), spec.split)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    data = recbole_loaders(split, SASRec, SMALL, max_item_list_length=5, checkpoint_dir=tmp_path / "ck")
    torch.manual_seed(0)
    trainer = PrefixTrainer(data.config, SASRec(data.config, data.dataset))
    trainer.fit(data.train, data.valid, verbose=False)
    return trainer, data


def test_checkpoints_load_with_weights_only(trained, tmp_path):
    trainer, data = trained
    files = list((tmp_path / "ck").iterdir())
    assert [str(f) for f in files] == [trainer.saved_model_file]
    state = torch.load(files[0], weights_only=True)
    assert "config" not in state
    assert list((tmp_path / "cwd").iterdir()) == [], "no TensorBoard folder, no log"
    best = trainer.evaluate(data.test)
    with torch.no_grad():
        trainer.model.item_embedding.weight.zero_()
    assert trainer.evaluate(data.test, load_best_model=False) != best
    assert trainer.evaluate(data.test) == best


def test_two_trainers_in_one_second_do_not_share_a_file(trained):
    trainer, data = trained
    other = PrefixTrainer(data.config, trainer.model)
    assert other.saved_model_file != trainer.saved_model_file


def test_resume_continues_after_the_saved_epoch(trained):
    trainer, data = trained
    trainer._save_checkpoint(1)
    saved = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    torch.manual_seed(5)
    other = PrefixTrainer(data.config, SASRec(data.config, data.dataset))
    other.resume_checkpoint(trainer.saved_model_file)
    assert other.start_epoch == 2
    assert other.best_valid_score == trainer.best_valid_score
    assert all(torch.equal(v, saved[k]) for k, v in other.model.state_dict().items())
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (other, trainer))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k]["exp_avg"], theirs[k]["exp_avg"]) for k in ours)
