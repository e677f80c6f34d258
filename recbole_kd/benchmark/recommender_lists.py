"""The best items of a trained recommender for every train user, as a list file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import EvalSet, Split

_USERS = 256


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
    from safetensors.torch import load_file

    from recbole_kd.benchmark.rundir import read_manifest
    from recbole_kd.data.history import HistoryHasher
    from recbole_kd.data.list_rows import ListRows
    from recbole_kd.data.teacher_lists import write_teacher_lists
    from recbole_kd.models.build import build_student
    from recbole_kd.ranking import last_items

    dataset, train = split.dataset, split.train
    length = teacher.dataset.max_item_list_length
    spec = teacher.student
    model = build_student(spec.model, spec.hparams, n_items=dataset.n_items, max_len=length, seed=0)
    model.load_state_dict(load_file(run / "model.safetensors"), strict=True)
    model.eval()
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
    manifest = read_manifest(run)
    said = {
        "source": "recommender",
        "teacher": spec.model,
        "run": run.name,
        "trained_on": manifest["split_digest"],
        "split_digest": split.digest,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "top": top,
    }
    write_teacher_lists(path, rows.frame(), said)
