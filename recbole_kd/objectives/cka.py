"""Linear centred kernel alignment between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import cut_out, positive, safe_sqrt


def cka(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = 1 - ||S^T T||_F^2 / (||S^T S||_F ||T^T T||_F), S and T centred over the users.

    Linear CKA of Kornblith et al. (ICML 2019, arXiv 1905.00414) as a loss (for distillation: Saha et al.,
    BMVC 2022). Invariant to rotation, translation and scale of either side; dimensions need not agree.

    Parameters
    ----------
    student : float [B, D]
    teacher : float [B, E]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar in [0, 1]; 1 where a side does not vary, 0 if fewer than two rows have a profile
    """
    w = weight.to(student.dtype)
    share = w / positive(w.sum())
    s, t = (_centred(x, weight, share) for x in (student, teacher))
    cross, own_s, own_t = ((a.t() @ b).square().sum() for a, b in ((s, t), (s, s), (t, t)))
    return (1 - cross / positive(safe_sqrt(own_s) * safe_sqrt(own_t))) * ((w > 0).sum() > 1)


def _centred(x: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    x = cut_out(x, weight)
    return (x - share @ x) * safe_sqrt(share)[:, None]
