"""The distillation head: pools, projects and compares. Thrown away after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_kd.errors import SpecError
from recbole_kd.models.pooling import POOLINGS, Tokens, pool
from recbole_kd.objectives import get_objective
from recbole_kd.training.spec import DistillSpec


def prepare_target(vectors: Tensor, mask: Tensor, how: str) -> Tensor:
    """Fixed transformation of the teacher vectors, fitted on the users that have one.

    Parameters
    ----------
    vectors : float [N, D]
    mask : bool [N]
    how : {"raw", "standardised", "unit"}
        ``standardised``: zero mean and unit variance per dimension (a constant dimension becomes 0, not
        noise blown up); ``unit``: Euclidean norm 1.

    Returns
    -------
    float [N, D], 0 where there is no profile
    """
    if how == "standardised" and bool(mask.any()):
        known = vectors[mask]
        sd = known.std(0, correction=0)
        vectors = (vectors - known.mean(0)) / torch.where(sd > 1e-6, sd, torch.inf)
    elif how == "unit":
        vectors = nn.functional.normalize(vectors, dim=1)
    return torch.where(mask[:, None], vectors, 0.0)


class DistillationHead(nn.Module):
    """Distance between a student's pooled hidden state and the user's profile vector.

    Parameters
    ----------
    spec : DistillSpec
    student_dim : int
        H, width of the pooled layer.
    vectors : float [n_users, D]
        Teacher vectors by user id.
    mask : bool [n_users]
        Users that have one.
    seed : int
        Initialises the head from a stream of its own, so that the student's initial weights, dropout
        and batches are those of the plain backbone with the same seed.

    Raises
    ------
    SpecError
        If neither side is projected and the dimensions differ, or a name is unknown.
    """

    vectors: Tensor
    known: Tensor

    def __init__(self, spec: DistillSpec, student_dim: int, vectors: Tensor, mask: Tensor, seed: int) -> None:
        super().__init__()
        if spec.pooling not in POOLINGS:
            raise SpecError(f"distill.pooling: no pooling {spec.pooling!r}. Known: {', '.join(POOLINGS)}.")
        teacher_dim = vectors.shape[1]
        if spec.projection == "none" and student_dim != teacher_dim:
            raise SpecError(
                f"distill.projection: none, but layer {spec.layer} has {student_dim} dimensions and the "
                f"profiles have {teacher_dim}. Use projection: student (or teacher), or reduce the profiles "
                f"to {student_dim}."
            )
        self._spec = spec
        self._objective = get_objective(spec.objective).bind(spec.objective_args)
        self.register_buffer("vectors", prepare_target(vectors, mask, spec.target), persistent=False)
        self.register_buffer("known", mask, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        sizes = {"student": (student_dim, teacher_dim), "teacher": (teacher_dim, student_dim)}
        self.projection = _linear(*sizes[spec.projection], generator) if spec.projection in sizes else None
        self.scorer = _linear(student_dim, 1, generator) if spec.pooling == "attention" else None

    def pooled(self, hidden: Tensor, segment: Tensor, position: Tensor, length: Tensor) -> Tensor:
        """Pooled student state of every piece, [P, H] (before any projection)."""
        tokens = Tokens(hidden, segment, position, length)
        return pool(tokens, self._spec.pooling, decay=self._spec.pooling_decay, scorer=self.scorer)

    def forward(self, state: Tensor, user: Tensor) -> Tensor:
        """Distillation loss of pooled states.

        Parameters
        ----------
        state : float [P, H]
        user : int64 [P]

        Returns
        -------
        float scalar
        """
        target, mask = self.vectors[user], self.known[user]
        if self.projection is not None and self._spec.projection == "student":
            state = self.projection(state)
        elif self.projection is not None:
            target = self.projection(target)
        return self._objective(state, target, mask)


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    # skip_init: nn.Linear's own initialisation would draw from the student's global stream.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with torch.no_grad():
        layer.weight.normal_(0.0, n_in**-0.5, generator=generator)
        layer.bias.zero_()
    return layer
