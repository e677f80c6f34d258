"""Short trainings of every objective from its default YAML, with and without a frozen student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recbole_kd.benchmark import objectives, rooms
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge
from recbole_kd.benchmark.validate import validated
from recbole_kd.data.history import HistoryHasher
from recbole_kd.data.list_rows import ListRows
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.data.teacher_lists import TeacherLists
from recbole_kd.data.types import Split
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.clusters import as_objective_asks
from recbole_kd.objectives import OBJECTIVES
from recbole_kd.training.spec import StudentSpec

SMALL = {
    "hparams": {"hidden_size": 32, "inner_size": 32, "n_layers": 1, "hidden_dropout_prob": 0.1},
    "train": {"train_batch_size": 32, "learning_rate": 0.003},
}
MAX_LEN = 50


@dataclass(frozen=True)
class Taught:
    """A split and what a teacher says about its users, all from the categories of the items in train."""

    split: Split
    vectors: torch.Tensor
    attributes: torch.Tensor
    lists: TeacherLists

    @property
    def mask(self) -> torch.Tensor:
        """Users with a profile, [n_users]."""
        known = torch.zeros(len(self.vectors), dtype=torch.bool)
        known[torch.from_numpy(self.split.train.users)] = True
        return known


def taught(spec: DatasetSpec) -> Taught:
    """Profile = mean category vector of the train history; list = items nearest to it."""
    from profiles.build import category_vectors
    from profiles.history import train_histories
    from recbole_kd.data.load import load_dataset, load_item_texts
    from recbole_kd.data.split import make_split

    split = make_split(load_dataset(spec), spec.split)
    by_token = category_vectors(train_histories(split), load_item_texts(spec), spec.domain)
    width = len(next(iter(by_token.values())))
    tokens = split.dataset.item_tokens
    items = np.array([by_token.get(str(t), np.zeros(width)) for t in tokens], np.float32)
    kept = np.argsort(-items.sum(0), kind="stable")[:40]
    return from_items(split, items[:, kept])


def from_items(split: Split, items: np.ndarray, top: int = 20) -> Taught:
    """Teacher whose profiles are means of item vectors [n_items, D]."""
    vectors = np.zeros((split.dataset.n_users, items.shape[1]), np.float32)
    row = np.repeat(np.arange(len(split.train)), split.train.lengths)
    total = np.zeros((len(split.train), items.shape[1]), np.float32)
    np.add.at(total, row, items[split.train.items])
    vectors[split.train.users] = total / split.train.lengths[:, None]
    return Taught(
        split,
        torch.from_numpy(vectors),
        torch.from_numpy((vectors > vectors[split.train.users].mean(0)).astype(np.float32)),
        _lists(split, vectors, items, top),
    )


def _lists(split: Split, vectors: np.ndarray, items: np.ndarray, top: int) -> TeacherLists:
    import pandas as pd

    hashed = HistoryHasher(split.dataset.item_tokens.tolist())
    rows = ListRows(split, top)
    popularity = 1e-3 * np.log1p(split.train_item_counts())
    for begin in range(0, len(split.train), 512):
        users = split.train.users[begin : begin + 512]
        r = range(begin, begin + len(users))
        rows.add(
            users,
            (vectors[users] @ items.T + popularity).astype(np.float32),
            exclude_seen=True,
            source_user=split.dataset.user_tokens[users],
            history_last=split.train.lengths[begin : begin + 512],
            history_hash=[hashed(split.train.row(k).tolist()) for k in r],
        )
    frame: pd.DataFrame = rows.frame()
    ids = {str(t): i for i, t in enumerate(split.dataset.item_tokens)}
    users = {str(t): i for i, t in enumerate(split.dataset.user_tokens)}
    at = frame["user"].map(users).to_numpy(), frame["rank"].to_numpy() - 1
    grid = np.zeros((split.dataset.n_users, top), np.int64)
    score = np.zeros(grid.shape, np.float32)
    grid[at], score[at] = frame["item"].map(ids).to_numpy(), frame["score"].to_numpy()
    return TeacherLists(grid, score, {}, 1.0, "test")


def default_student(objective: str, backbone: str = "SASRec") -> StudentSpec:
    """The student that ``distill: {objective: ...}`` resolves to, made small."""
    mark = Mark("test", 1)

    def marked(data: dict[str, Any]) -> MarkedDict:
        values = {k: marked(v) if isinstance(v, dict) else v for k, v in data.items()}
        return MarkedDict(mark, values)

    layers = [marked({"distill": {"objective": objective}, **SMALL})]
    model = objectives.with_defaults(rooms.model_defaults(backbone, True, "test"), layers)
    for layer in layers:
        model = merge(model, layer)
    return validated(StudentSpec, objectives.checked(model))


@dataclass(frozen=True)
class Course:
    """L_distil before and after a short training, in evaluation mode on the same batches."""

    before: float
    after: float

    @property
    def drop(self) -> float:
        """Share of the loss that training took away."""
        return (self.before - self.after) / abs(self.before)


def course(data: Taught, objective: str, *, frozen: bool, epochs: int, steps: int | None = None) -> Course:
    """Train with the total loss of the default YAML; ``frozen``: only the head learns."""
    spec = default_student(objective)
    distill = spec.distill
    assert distill is not None
    split = data.split
    model = build_student(spec.model, spec.hparams, n_items=split.dataset.n_items, max_len=MAX_LEN, seed=1)
    model.requires_grad_(not frozen)
    kind = OBJECTIVES[objective].kind
    if kind == "lists":
        lists = torch.from_numpy(data.lists.items), torch.from_numpy(data.lists.score)
        model.attach_lists(distill, *lists, torch.from_numpy(data.lists.mask), 0)
    else:
        vectors = data.attributes if kind == "attributes" else data.vectors
        model.attach_teacher(distill, *as_objective_asks(distill, vectors[:, None], data.mask[:, None]), 0)
    batches = SequenceBatches(
        split.train, MAX_LEN, spec.train.train_batch_size, shift=model.shift, packed=model.packed
    )
    before = _evaluate(model, batches, steps)
    learned = [p for p in model.parameters() if p.requires_grad]
    if learned:
        optimizer = torch.optim.Adam(learned, lr=spec.train.learning_rate)
        rng = np.random.default_rng(1)
        model.train()
        for _ in range(epochs):
            for step, batch in enumerate(batches.epoch(rng)):
                if step == steps:
                    break
                loss_rec, loss_distil = model.sequence_losses(batch, None, rng, distil=True)
                loss = model.total_loss(loss_rec, loss_distil, model.distil_alpha)
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"{objective}: the loss became {float(loss)}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return Course(before, _evaluate(model, batches, steps))


@torch.no_grad()
def _evaluate(model: Any, batches: SequenceBatches, steps: int | None) -> float:
    model.eval()
    rng, values = np.random.default_rng(7), []
    for step, batch in enumerate(batches.epoch(rng)):
        if step == steps:
            break
        values.append(float(model.sequence_losses(batch, None, rng, distil=True)[1]))
    return float(np.mean(values))
