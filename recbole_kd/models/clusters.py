"""What objectives of the kind ``cluster`` predict: the cluster of the profile."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.errors import SpecError
from recbole_kd.objectives import get_objective
from recbole_kd.training.spec import DistillSpec


def as_objective_asks(spec: DistillSpec, vectors: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher vectors and weights as they are or, where the objective predicts clusters, one-hot.

    Parameters
    ----------
    spec : DistillSpec
    vectors : float [n_users, K, D]
        Of several profiles the (weighted) mean is clustered.
    weight : bool or float [n_users, K]

    Returns
    -------
    float [n_users, K, D] or [n_users, n_clusters], and weight [n_users, K] or [n_users]
    """
    if get_objective(spec.objective).kind != "cluster":
        return vectors, weight
    number = weight.to(vectors.dtype)
    total = number.sum(1)
    some = torch.where((weight > 0)[..., None], vectors, 0.0) * number[..., None]
    mean = some.sum(1) / torch.where(total > 0, total, 1.0)[:, None]
    args = spec.objective_args
    one_hot = cluster_one_hot(mean, total > 0, n_clusters=args["n_clusters"], seed=args["seed"])
    user = total / (weight > 0).sum(1).clamp_min(1)
    return one_hot, user if weight.is_floating_point() else user > 0


def cluster_one_hot(vectors: Tensor, mask: Tensor, *, n_clusters: int, seed: int) -> Tensor:
    """Cluster of every user, by k-means over the users that have a profile.

    Parameters
    ----------
    vectors : float [N, D]
    mask : bool [N]
    n_clusters : int
    seed : int

    Returns
    -------
    float [N, n_clusters]
        One-hot; 0 where there is no profile.

    Raises
    ------
    SpecError
        Fewer different profiles than clusters.
    """
    from sklearn.cluster import KMeans

    known = vectors[mask].double().numpy(force=True)
    distinct = len(torch.unique(vectors[mask], dim=0))
    if distinct < n_clusters:
        raise SpecError(
            f"distill.objective_args.n_clusters: {n_clusters}, but there are {distinct} different profiles; "
            "ask for fewer clusters."
        )
    labels = KMeans(n_clusters, n_init=4, random_state=seed).fit_predict(known)
    out = torch.zeros(len(vectors), n_clusters)
    out[mask.nonzero().squeeze(1), torch.from_numpy(labels).long()] = 1.0
    return out
