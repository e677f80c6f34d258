"""Clusters of profiles."""

from __future__ import annotations

import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.models.clusters import as_objective_asks, cluster_one_hot
from tests.students import distill_spec


def _three_heaps():
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(30) % 3
    return centres[truth] + torch.randn(30, 2, generator=draw), truth


def test_heaps_are_found_and_strangers_have_no_cluster():
    vectors, truth = _three_heaps()
    mask = torch.arange(30) > 4
    one_hot = cluster_one_hot(vectors, mask, n_clusters=3, seed=0)
    assert bool((one_hot[~mask] == 0).all())
    assert bool((one_hot[mask].sum(1) == 1).all())
    for k in range(3):
        assert len(set(one_hot[mask & (truth == k)].argmax(1).tolist())) == 1
    assert torch.equal(one_hot, cluster_one_hot(vectors, mask, n_clusters=3, seed=0))


def test_only_objectives_that_predict_clusters_get_them():
    vectors, _ = _three_heaps()
    vectors, weight = vectors[:, None], torch.ones(30, 1, dtype=torch.bool)
    same, _ = as_objective_asks(distill_spec(), vectors, weight)
    assert same is vectors
    spec = distill_spec(objective="cluster", objective_args={"n_clusters": 3, "seed": 0})
    one_hot, known = as_objective_asks(spec, vectors, weight)
    assert one_hot.shape == (30, 3)
    assert known.dtype == torch.bool
    assert bool(known.all())


def test_fewer_profiles_than_clusters_is_an_error():
    with pytest.raises(SpecError, match="there are 1 different profiles"):
        cluster_one_hot(torch.ones(9, 2), torch.ones(9, dtype=torch.bool), n_clusters=2, seed=0)
