"""Watching a training: is the profile learned, is it kept, has anything collapsed?

The one object that :func:`recbole_kd.training.fit.fit` talks to. It reads a fixed, seeded sample of users
without dropout and without touching any random stream, so a run's numbers do not depend on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd import diagnostics as measure
from recbole_kd.data.profile_mean import mean_profile
from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.data.types import Sequences, Split
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.mixin import padded_batch
from recbole_kd.training.spec import DiagnosticsSpec

if TYPE_CHECKING:
    from recbole_kd.data.teacher_lists import TeacherLists

FloatArray = NDArray[np.float64]
START, DISTILLED, FINAL = "start", "distilled", "final"
MIN_USERS = 20
"""With fewer users nothing is measured."""
RIDGE = 0.1
"""Penalty of the linear maps per user, on states of unit variance."""


def sample_users(split: Split, known: NDArray[np.bool_], n: int, seed: int) -> NDArray[np.int64]:
    """Sorted user ids: at most ``n`` train users with two interactions or more and a profile."""
    enough = split.train.users[split.train.lengths >= 2]
    eligible = enough[known[enough]]
    drawn = np.random.default_rng(seed).permutation(len(eligible))[:n]
    return np.sort(eligible[drawn])


def mean_profiles(profiles: ProfileTable) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Standardised mean over each user's profiles, float [n_users, D], and who has one, bool [n_users]."""
    mean, known = mean_profile(profiles.vectors, profiles.mask)
    vectors = mean.astype(np.float64)
    if known.any():
        sd = vectors[known].std(0)
        vectors = (vectors - vectors[known].mean(0)) / np.where(sd > 1e-6, sd, np.inf)
    return np.asarray(np.where(known[:, None], vectors, 0.0), np.float64), known


def last_train_items(train: Sequences, users: NDArray[np.int64], width: int) -> tuple[Tensor, Tensor]:
    """Right-padded latest train items, int64 [N, width], and their number, int64 [N]."""
    rows = np.searchsorted(train.users, users)
    ends = train.offsets[rows + 1]
    length = np.minimum(ends - train.offsets[rows], width)
    column = np.arange(width)
    real = column < length[:, None]
    items = train.items[np.where(real, (ends - length)[:, None] + column, 0)]
    return torch.from_numpy(np.where(real, items, 0)), torch.from_numpy(length)


class Watch:
    """Diagnostics of one training.

    Parameters
    ----------
    model : student with its head, before the first step
    split : Split
    profiles : ProfileTable
    spec : DiagnosticsSpec
    max_len : int
    device : str
    """

    def __init__(
        self,
        model: Any,
        split: Split,
        profiles: ProfileTable,
        spec: DiagnosticsSpec,
        max_len: int,
        device: str,
    ) -> None:
        self._model, self._spec = model, spec
        self._vectors, known = mean_profiles(profiles)
        self.users = sample_users(split, known, spec.users, spec.seed)
        self._candidates = np.flatnonzero(known)
        self._own = np.searchsorted(self._candidates, self.users)
        self._teacher = self._vectors[self.users]
        items, length = last_train_items(split.train, self.users, max_len)
        user = torch.from_numpy(self.users)
        self._batch = padded_batch(items, length, user).to(device)
        self._everybody = torch.from_numpy(self._candidates).to(device)
        self._classes = measure.clusters(self._teacher, spec.clusters, spec.seed)
        self._fixed: tuple[float, float] | None = None
        self.views: dict[str, View] = {START: self._look()}
        self._rows: dict[str, dict[str, float]] = {START: self._measured(self.views[START])}
        self._epochs: dict[str, int] = {START: 0}

    @classmethod
    def of(
        cls,
        model: Any,
        split: Split,
        profiles: ProfileTable | TeacherLists | None,
        spec: DiagnosticsSpec | None,
        max_len: int,
        device: str,
    ) -> Watch | None:
        """Start watching, if it is asked for and there are profile vectors and somebody to look at."""
        head = getattr(model, "distil_head", None)
        if spec is None or not spec.enabled or not isinstance(head, DistillationHead):
            return None
        if not isinstance(profiles, ProfileTable):
            return None
        enough = (
            sample_users(split, np.asarray(profiles.mask.any(1)), spec.users, spec.seed).size >= MIN_USERS
        )
        return cls(model, split, profiles, spec, max_len, device) if enough else None

    def epoch(self, epoch: int, phase: str) -> dict[str, float]:
        """Row of ``history.parquet`` after an epoch; remembers the last one that distilled."""
        view = self._look()
        row = self._measured(view)
        if phase == "distil":
            self.views[DISTILLED], self._rows[DISTILLED], self._epochs[DISTILLED] = view, row, epoch
        return row

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of the last epoch that distilled; the rest follows from the start."""
        if DISTILLED not in self.views:
            return {}
        view = self.views[DISTILLED]
        student = None if view.student is None else torch.from_numpy(view.student)
        looked = {"state": torch.from_numpy(view.state), "student": student}
        return {**looked, "row": self._rows[DISTILLED], "epoch": self._epochs[DISTILLED]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        if not state:
            return
        student = None if state["student"] is None else state["student"].numpy()
        # Nobody looks at the profiles of a moment again once its row is made.
        nobody = np.zeros((0, self._teacher.shape[1]))
        self.views[DISTILLED] = View(state["state"].numpy(), student, nobody)
        self._rows[DISTILLED], self._epochs[DISTILLED] = state["row"], state["epoch"]

    def finish(self, best_epoch: int) -> dict[str, Any]:
        """What the manifest says, once the best epoch's model is loaded.

        Returns
        -------
        dict
            ``users``, ``candidates``, chance levels, and per moment (``start``, ``distilled``: after the last
            epoch that distilled, ``final``: the model that is kept) the metrics with probe; ``collapsed`` and
            ``collapse``.
        """
        self.views[FINAL] = self._look()
        self._rows[FINAL], self._epochs[FINAL] = self._measured(self.views[FINAL]), best_epoch
        moments = {
            name: {"epoch": self._epochs[name], **_known({**self._rows[name], **self._decoded(view)})}
            for name, view in self.views.items()
        }
        found = self._collapse()
        k = self._spec.k
        return {
            "users": len(self.users),
            "candidates": len(self._candidates),
            "k": k,
            "chance": {
                f"retrieval@{k}": measure.chance_at_k(len(self._candidates), k),
                f"overlap@{k}": measure.chance_at_k(len(self.users) - 1, k),
                "probe": float(np.bincount(self._classes).max() / len(self._classes)),
            },
            **moments,
            "collapsed": bool(found),
            "collapse": found,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Users and their states at every moment, stored with the run for ``diagnose``."""
        found = {"users": torch.from_numpy(self.users)}
        for name in (DISTILLED, FINAL):
            if name in self.views:
                view = self.views[name]
                found[f"{name}.state"] = torch.from_numpy(view.state.astype(np.float32))
                if view.student is not None:
                    found[f"{name}.compared"] = torch.from_numpy(view.student.astype(np.float32))
        return found

    def _look(self) -> View:
        model = self._model
        training = model.training
        model.eval()
        with torch.no_grad():
            state = model.distil_state(model.encode(self._batch, None), self._batch)
            head, student, teacher = model.distil_head, None, None
            if isinstance(head, DistillationHead):
                student, teacher = head.student_side(state), head.teacher_side(self._everybody)
        model.train(training)
        shown = self._vectors[self._candidates] if teacher is None else _numpy(teacher)
        return View(_numpy(state), None if student is None else _numpy(student), shown)

    def _measured(self, view: View) -> dict[str, float]:
        k = self._spec.k
        teacher = view.teacher[self._own]
        nothing = float("nan")
        row = {f"retrieval@{k}": nothing, "student_rank": nothing, "student_variance": nothing}
        row |= {
            "state_rank": measure.effective_rank(view.state),
            "state_variance": measure.mean_variance(view.state),
        }
        if view.student is not None:
            row |= {
                f"retrieval@{k}": measure.retrieval_at_k(view.student, view.teacher, self._own, k),
                "student_rank": measure.effective_rank(view.student),
                "student_variance": measure.mean_variance(view.student),
            }
        if self._fixed is None or getattr(self._model.distil_head, "projects_teacher", False):
            self._fixed = measure.effective_rank(teacher), measure.mean_variance(teacher)
        row |= dict(zip(("teacher_rank", "teacher_variance"), self._fixed, strict=True))
        return row | {
            "cka": measure.linear_cka(view.state, self._teacher),
            f"overlap@{k}": measure.neighbour_overlap(view.state, self._teacher, k),
        }

    def _decoded(self, view: View) -> dict[str, float]:
        spec = self._spec
        return decoded(
            view.state, self._teacher, self._vectors[self._candidates], self._own, self._classes, spec
        )

    def _collapse(self) -> list[str]:
        """Sides that collapsed between the start and the end of distillation."""
        if DISTILLED not in self._rows:
            return []
        before, after = self._rows[START], self._rows[DISTILLED]
        found = []
        # The student's projected side may rightly shrink to the mean, where there is nothing to predict.
        for side, words in (("teacher", "projected profiles"), ("state", "student states")):
            names = (f"{side}_rank", f"{side}_variance")
            start, end = ((row[names[0]], row[names[1]]) for row in (before, after))
            found.append(
                measure.collapse(
                    words,
                    start,
                    end,
                    rank_below=self._spec.collapse_rank,
                    variance_below=self._spec.collapse_variance,
                )
            )
        return [text for text in found if text]


def decoded(
    state: FloatArray,
    teacher: FloatArray,
    candidates: FloatArray,
    own: NDArray[np.int64],
    classes: NDArray[np.int64],
    spec: DiagnosticsSpec,
) -> dict[str, float]:
    """What linear maps, fitted on other users, read from states; needs no head, so any student can be asked.

    Returns
    -------
    dict
        ``decoded@k``: retrieval of the own profile by the vector that is read; ``probe``: accuracy of the
        profile's cluster.
    """
    folds, seed, penalty = spec.folds, spec.seed, RIDGE * len(state)
    read = measure.cross_decode(state, teacher, folds=folds, seed=seed, penalty=penalty)
    probe = measure.linear_probe(state, classes, folds=folds, seed=seed, penalty=penalty)
    return {
        f"decoded@{spec.k}": measure.retrieval_at_k(read, candidates, own, spec.k),
        "probe": probe["accuracy"],
    }


class View:
    """States at one moment.

    Attributes
    ----------
    state : float [N, H]
        Pooled, before any projection.
    student : float [N, D] or None
        As compared with profiles; None where both share no space.
    teacher : float [C, D]
        Profiles of all candidates as compared.
    """

    def __init__(self, state: FloatArray, student: FloatArray | None, teacher: FloatArray) -> None:
        self.state, self.student, self.teacher = state, student, teacher


def _known(row: dict[str, float]) -> dict[str, float | None]:
    """NaN, which JSON does not have, as null."""
    return {name: value if np.isfinite(value) else None for name, value in row.items()}


def _numpy(x: Tensor) -> FloatArray:
    return np.asarray(x.detach().cpu().double().numpy(), np.float64)
