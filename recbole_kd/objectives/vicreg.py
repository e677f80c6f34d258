"""VICReg: invariance to the profile, with variance and covariance terms against collapse."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.mse import mse
from recbole_kd.objectives.weighting import cut_out, positive

_EPSILON = 1e-4


def vicreg(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    *,
    invariance: float,
    variance: float,
    covariance: float,
    both_sides: bool,
) -> Tensor:
    """L = lambda mse(s, t) + mu v(s) + nu c(s), and v and c of t where ``both_sides``.

    v(z) = 1/D sum_d max(0, 1 - sqrt(Var(z_d) + 1e-4)), c(z) = 1/D sum_{d != e} Cov(z)_de^2 (Bardes, Ponce
    and LeCun, ICLR 2022, arXiv 2105.04906); the variance keeps a learned projection from shrinking to a
    point.

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.
    invariance, variance, covariance : float
        lambda, mu, nu.
    both_sides : bool
        Regularise the teacher's side as well, as published; of use where it is projected.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    loss = invariance * mse(student, teacher, weight)
    for side in (student, teacher) if both_sides else (student,):
        cov = _covariance(side, weight)
        spread = (cov.diagonal() + _EPSILON).sqrt()
        off = cov.square().sum() - cov.diagonal().square().sum()
        loss = loss + variance * (1 - spread).clamp_min(0).mean() + covariance * off / len(cov)
    # Of one user there is no variance to speak of.
    return loss.where((weight > 0).sum() > 1, invariance * mse(student, teacher, weight))


def _covariance(x: Tensor, weight: Tensor) -> Tensor:
    """Unbiased covariance [D, D]; with equal weights it divides by n - 1."""
    w = weight.to(x.dtype)
    share = w / positive(w.sum())
    x = cut_out(x, weight)
    x = x - share @ x
    return (x * share[:, None]).t() @ x / positive(1 - share.square().sum())
