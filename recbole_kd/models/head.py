"""The distillation head: pools, projects and compares. Thrown away after training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch
from recbole_kd.models.experts import Experts
from recbole_kd.models.pooling import Tokens, get_pooling, pool, pool_prefixes, with_padding
from recbole_kd.models.prefixes import get_prefixes
from recbole_kd.models.projections import linear, make_projection
from recbole_kd.models.several import get_several, mean
from recbole_kd.models.targets import prepare_target
from recbole_kd.objectives import get_objective
from recbole_kd.training.spec import DistillSpec


class States(NamedTuple):
    """What is compared with profiles: pieces or, if every prefix is distilled, tokens.

    Attributes
    ----------
    state : float [S, H]
        Pooled student state, before any projection.
    piece : int64 [S] or None
        Piece that each belongs to; None: state s is piece s.
    share : float [S] or None
        Weight of each; None: 1.
    """

    state: Tensor
    piece: Tensor | None = None
    share: Tensor | None = None


class DistillationHead(nn.Module):
    """Distance between a student's pooled hidden state and the user's profile vector.

    Parameters
    ----------
    spec : DistillSpec
    student_dim : int
        H, width of the pooled layer(s).
    vectors : float [n_users, D] or [n_users, K, D]
        Teacher vectors by user id, one or several per user.
    weight : bool or float, [n_users] or [n_users, K]
        0 where there is no profile, else 1 or the confidence in it.
    seed : int
        Initialises the head from a stream of its own, so that the student's initial weights, dropout
        and batches are those of the plain backbone with the same seed.
    width : int
        Longest history of a row (RecBole's ``MAX_ITEM_LIST_LENGTH``), for pooling that counts padding.

    Raises
    ------
    SpecError
        If neither side is projected and the dimensions differ, a name is unknown, or choices exclude each
        other.
    """

    vectors: Tensor
    weight: Tensor
    known: Tensor

    def __init__(
        self,
        spec: DistillSpec,
        student_dim: int,
        vectors: Tensor,
        weight: Tensor,
        seed: int,
        width: int | None = None,
    ) -> None:
        super().__init__()
        get_pooling(spec.pooling)
        self._spec, self._width = spec, width
        self._share, self._several = get_prefixes(spec.prefixes), get_several(spec.several_profiles)
        if self._share is not None and not spec.pooling_masked:
            raise SpecError(
                f"distill.pooling_masked: false, but prefixes: {spec.prefixes} pools without padding; "
                "use prefixes: last, or pooling_masked: true."
            )
        objective = get_objective(spec.objective)
        self._objective, self._dilution = objective.bind(spec.objective_args), objective.dilution
        self._all_profiles = objective.kind == "profiles"
        self._hold(vectors, weight)
        teacher_dim = vectors.shape[-1]
        if spec.projection == "none" and student_dim != teacher_dim and not objective.any_dimension:
            raise SpecError(
                f"distill.projection: none, but layer {spec.layer} has {student_dim} dimensions and the "
                f"profiles have {teacher_dim}. Use projection: student (or teacher), or reduce the profiles "
                f"to {student_dim}."
            )
        if spec.projection == "first" and student_dim < teacher_dim:
            raise SpecError(
                f"distill.projection: first, but layer {spec.layer} has {student_dim} dimensions, fewer than "
                f"the {teacher_dim} of the profiles. Reduce the profiles."
            )
        generator = torch.Generator().manual_seed(seed)
        sizes = {"student": (student_dim, teacher_dim), "teacher": (teacher_dim, student_dim)}
        self.projection: nn.Module | None = None
        if spec.projector == "experts":
            self.projection = self._experts(student_dim, teacher_dim, generator)
        elif spec.projection in sizes:
            self.projection = make_projection(
                spec.projector,
                *sizes[spec.projection],
                hidden=spec.projector_hidden,
                frozen=spec.projector_frozen,
                generator=generator,
            )
        self.scorer = linear(student_dim, 1, 0, generator) if spec.pooling == "attention" else None
        self.profile_scorer = None
        if spec.several_profiles == "attention" and self.vectors.shape[1] > 1:
            compared = student_dim if spec.projection == "teacher" else teacher_dim
            self.profile_scorer = linear(compared, 1, 0, generator)
            nn.init.zeros_(self.profile_scorer.weight)

    def _experts(self, student_dim: int, teacher_dim: int, generator: torch.Generator) -> Experts:
        spec = self._spec
        if spec.projection != "student" or self.vectors.shape[1] > 1:
            raise SpecError(
                "distill.projector: experts lead from the student to one profile per user; use projection: "
                "student and several_profiles: mean."
            )
        return Experts(student_dim, teacher_dim, **spec.experts.canonical(), generator=generator)

    def anneal(self, progress: float) -> None:
        """Tell the projection which share, in [0, 1], of distillation is over."""
        if isinstance(self.projection, Experts):
            self.projection.anneal(progress)

    def _hold(self, vectors: Tensor, weight: Tensor) -> None:
        """Keep the transformed target [N, K, D] and its weights; a mean is taken once, before the fit."""
        if vectors.dim() == 2:
            vectors, weight = vectors[:, None], weight[:, None]
        number = weight.to(vectors.dtype)
        user = number.sum(1) / (weight > 0).sum(1).clamp_min(1)
        if self._spec.several_profiles == "mean" and vectors.shape[1] > 1 and not self._all_profiles:
            some = torch.where((weight > 0)[..., None], vectors, 0.0)
            vectors, number = (
                mean(some, number, some[:, 0], None)[:, None],
                (user > 0)[:, None].to(user.dtype),
            )
        target = prepare_target(vectors, number > 0, self._spec.target, self._spec.target_shrinkage)
        self.register_buffer("vectors", target, persistent=False)
        self.register_buffer("weight", number, persistent=False)
        self.register_buffer("known", user if weight.is_floating_point() else user > 0, persistent=False)

    def states(self, hidden: Tensor, batch: Batch) -> States:
        """Pool the hidden states [B, L, H] of a batch."""
        if self._share is None:
            return States(self.pooled(hidden, batch.segment, batch.position, batch.length))
        spec = self._spec
        tokens = Tokens(hidden, batch.segment, batch.position, batch.length)
        state = pool_prefixes(tokens, spec.pooling, decay=spec.pooling_decay, scorer=self.scorer)
        return States(state, tokens.piece, self._share(tokens, batch.start, batch.history))

    def pooled(self, hidden: Tensor, segment: Tensor, position: Tensor, length: Tensor) -> Tensor:
        """Pooled student state of every whole piece, [P, H] (before any projection)."""
        tokens = Tokens(hidden, segment, position, length)
        if not self._spec.pooling_masked:
            tokens = with_padding(tokens, length, self._width or tokens.width)
        return pool(tokens, self._spec.pooling, decay=self._spec.pooling_decay, scorer=self.scorer)

    def compared(self, state: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """The two vectors that are compared, after projection and choice among several profiles.

        Parameters
        ----------
        state : float [S, H]
        user : int64 [S]

        Returns
        -------
        student, teacher : float [S, D]
            Teacher [S, K, D] for objectives over all profiles of a user.
        """
        target, weight = self.vectors[user], self.weight[user]
        if self._spec.projection == "first":
            state = state[:, : target.shape[-1]]
        if isinstance(self.projection, Experts):
            state = self.projection(state, target[:, 0])
        elif self.projection is not None and self._spec.projection == "student":
            state = self.projection(state)
        elif self.projection is not None:
            target = self.projection(target)
        if self._all_profiles:
            return state, target
        if target.shape[1] == 1:
            return state, target[:, 0]
        return state, self._several(target, weight, state, self.profile_scorer)

    def forward(self, state: Tensor, user: Tensor, share: Tensor | None = None) -> Tensor:
        """Distillation loss of pooled states.

        Parameters
        ----------
        state : float [S, H]
        user : int64 [S]
        share : float [S], optional
            Factor of each row's weight.

        Returns
        -------
        float scalar
        """
        weight = self.known[user]
        if share is not None:
            weight = weight * share
        given = weight
        if self._all_profiles:
            given = self.weight[user] if share is None else self.weight[user] * share[:, None]
        loss: Tensor = self._objective(*self.compared(state, user), given)
        if self._spec.coverage == "all":
            everybody = float(len(user)) if share is None else share.sum()
            loss = loss * (weight.sum() / everybody) ** self._dilution
        return loss

    @property
    def projects_teacher(self) -> bool:
        """Whether the profiles pass a projection before they are compared."""
        return self.projection is not None and self._spec.projection == "teacher"

    def student_side(self, state: Tensor) -> Tensor | None:
        """Pooled states [S, H] as they are compared, [S, D].

        None where the two sides share no space: objectives that compare distances only, and experts, which
        are chosen by the profile itself.
        """
        if self._spec.projection == "first":
            return state[:, : self.vectors.shape[-1]]
        if self.projection is None or self.projects_teacher:
            common = self.projects_teacher or state.shape[-1] == self.vectors.shape[-1]
            return state if common else None
        if isinstance(self.projection, Experts):
            return None
        projected: Tensor = self.projection(state)
        return projected

    def teacher_side(self, user: Tensor) -> Tensor:
        """Profiles of users [C] as they are compared, several of one user averaged, [C, D]."""
        target = self.vectors[user]
        if self.projection is not None and self.projects_teacher:
            target = self.projection(target)
        return mean(target, self.weight[user], target[:, 0], None)
