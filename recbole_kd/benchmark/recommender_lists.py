"""The best items of a trained recommender for every train user, as a list file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_kd.benchmark.derived import KEY, state_of
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import EvalSet, Split

_USERS = 256
RUN_STATE = "run_state"
"""Key of the manifest of a list file: its maker's run when it was made, see :func:`state_of`."""


def write_lists(
    path: Path, run: Path, teacher: CellSpec, split: Split, *, top: int, exclude_seen: bool
) -> None:
    """Score all items after each user's train history and write the best ones.

    Parameters
    ----------
    path : Path
    run : Path
        Run directory of ``teacher``.
    teacher : CellSpec
        A plain cell of one of our backbones.
    split : Split
        The one that it was trained on; validation and test are not read.
    top : int
    exclude_seen : bool

    Raises
    ------
    StoreError, ProfileError
    """
    import torch

    from recbole_kd.data.history import HistoryHasher
    from recbole_kd.data.list_rows import ListRows
    from recbole_kd.data.teacher_lists import write_teacher_lists
    from recbole_kd.ranking import last_items

    dataset, train = split.dataset, split.train
    length = teacher.dataset.max_item_list_length
    model = _trained(run, teacher, split)
    items, bias = model.item_table()
    hashed = HistoryHasher(dataset.item_tokens.tolist())
    tokens = dataset.user_tokens[train.users].astype(str)
    everybody = EvalSet(train, np.zeros(len(train), np.int64))
    rows = ListRows(split, top)
    with torch.no_grad():
        for begin in range(0, len(train), _USERS):
            part = slice(begin, min(begin + _USERS, len(train)))
            scores = model.serve_states(*last_items(everybody, part, length)) @ items.t()
            scores = scores if bias is None else scores + bias
            rows.add(
                train.users[part],
                scores.numpy().astype(np.float32),
                exclude_seen=exclude_seen,
                source_user=tokens[part],
                history_last=train.lengths[part],
                history_hash=[hashed(train.row(r).tolist()) for r in range(part.start, part.stop)],
            )
    write_teacher_lists(path, rows.frame(), _said(run, teacher, split) | {"top": top}, {KEY: state_of(run)})


def write_states(path: Path, run: Path, teacher: CellSpec, split: Split) -> None:
    """Write the teacher's state after each train history as an embedding file.

    Parameters
    ----------
    path, run, teacher, split : as in :func:`write_lists`
    """
    import torch

    from recbole_kd.data.history import HistoryHasher
    from recbole_kd.data.profile_table import ProfileRows, write_embedding_file
    from recbole_kd.ranking import last_items

    train, length = split.train, teacher.dataset.max_item_list_length
    model = _trained(run, teacher, split)
    everybody = EvalSet(train, np.zeros(len(train), np.int64))
    states = []
    with torch.no_grad():
        for begin in range(0, len(train), _USERS):
            part = slice(begin, min(begin + _USERS, len(train)))
            states.append(model.serve_states(*last_items(everybody, part, length)).numpy())
    hashed = HistoryHasher(split.dataset.item_tokens.tolist())
    rows = ProfileRows.build(
        user=split.dataset.user_tokens[train.users].astype(str).tolist(),
        history_last=train.lengths,
        history_hash=[hashed(train.row(r).tolist()) for r in range(len(train))],
        vector=np.concatenate(states).astype(np.float32),
    )
    write_embedding_file(path, rows, _said(run, teacher, split), {KEY: state_of(run)})


def _trained(run: Path, teacher: CellSpec, split: Split) -> Any:
    """The teacher as its run left it, in evaluation mode."""
    from safetensors.torch import load_file

    from recbole_kd.models.build import build_student

    spec, length = teacher.student, teacher.dataset.max_item_list_length
    model = build_student(spec.model, spec.hparams, n_items=split.dataset.n_items, max_len=length, seed=0)
    model.load_state_dict(load_file(run / "model.safetensors"), strict=True)
    return model.eval()


def _said(run: Path, teacher: CellSpec, split: Split) -> dict[str, Any]:
    from recbole_kd.benchmark.rundir import read_manifest

    return {
        "source": "recommender",
        "teacher": teacher.student.model,
        "run": run.name,
        RUN_STATE: state_of(run),
        "trained_on": read_manifest(run)["split_digest"],
        "split_digest": split.digest,
        "dataset": split.dataset.name,
        "dataset_digest": split.dataset.digest,
    }
