"""``candidates.parquet`` beside ``experiment.json``: every method of a sweep on its retriever's candidates.

One row per finished cell and asked test user: labels and ``cell``, ``user``, ``item`` (the target),
``rank`` (the method's own, full ranking), ``candidate_rank`` (among the candidates, NaN where the
retriever missed the target), ``composed`` (full-catalogue rank when this method orders the candidates;
the retriever's rank where it missed). Schema metadata ``recbole_kd``: the candidate protocol.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_kd.baselines import GENERATIVE
from recbole_kd.baselines.llm.candidates import (
    CandidateSets,
    Floats,
    candidate_ranks,
    reranked,
    sets_address,
)
from recbole_kd.baselines.llm.spec import CandidatesSpec
from recbole_kd.benchmark import record, rundir
from recbole_kd.benchmark.artefacts import read_split, split_file, write_bytes_atomic
from recbole_kd.benchmark.derived import KEY, made_from, state_of
from recbole_kd.benchmark.rerank import candidate_sets
from recbole_kd.benchmark.resolve import Experiment
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.data.types import Split
from recbole_kd.errors import StoreError, UserError

FILE = "candidates.parquet"
_PART = "test"


def write_candidate_ranks(
    experiment: Experiment, results: Path, note: Callable[[str], None], device: str = "cpu"
) -> Path | None:
    """Score every finished cell of an experiment on the candidate sets of its seed's retriever.

    What a run gave is kept in ``<results>/cache/candidate-ranks``, so that only new runs are scored.

    Parameters
    ----------
    note : callable
        Is told which runs could not be scored, and why.

    Returns
    -------
    Path or None
        None without a candidate protocol, or before a retriever has run.
    """
    spec = experiment.spec.candidates
    if spec.retriever is None:
        return None
    frames = []
    for planned in experiment.cells:
        retriever = _retriever(experiment, planned)
        if retriever is None or not _done(results, retriever) or not _done(results, planned.cell):
            continue
        try:
            frame = _of_cell(results, planned, retriever, spec, device)
        except UserError as error:
            note(f"{planned.label}: not scored on the candidates ({error})")
            continue
        frames.append(frame.assign(**planned.label.canonical(), cell=planned.cell))
    if not frames:
        return None
    path = record.folder(results, experiment.name) / FILE
    _write(path, pd.concat(frames, ignore_index=True), spec)
    return path


def _done(results: Path, cell: str) -> bool:
    return (rundir.run_path(results, cell) / rundir.MANIFEST).is_file()


def _retriever(experiment: Experiment, planned: PlannedCell) -> str | None:
    """Address of the retriever's cell on the dataset and with the seed of a cell."""
    wanted = experiment.spec.candidates.retriever
    assert wanted is not None
    label = planned.label
    key = (label.dataset, wanted.backbone, wanted.variant, label.seed)
    return next((c.cell for c in experiment.cells if tuple(c.label.canonical().values()) == key), None)


def _of_cell(
    results: Path, planned: PlannedCell, retriever: str, spec: CandidatesSpec, device: str
) -> pd.DataFrame:
    split = read_split(split_file(results, planned.spec))
    address = sets_address(retriever, spec, split)
    path = results / "cache" / "candidate-ranks" / address / f"{planned.cell}.parquet"
    runs = [rundir.run_path(results, cell) for cell in (planned.cell, retriever)]
    if not made_from(path, *runs):
        sets = candidate_sets(results, retriever, spec, split, device)[_PART]
        scores = _scores(results, planned, sets, split, device)
        frame = _frame(results, planned, sets, scores, split)
        _write(path, frame, spec, {KEY: state_of(*runs)})
    return pd.read_parquet(path)


def _frame(
    results: Path, planned: PlannedCell, sets: CandidateSets, scores: Floats, split: Split
) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "user": split.dataset.user_tokens[sets.users].astype(str),
            "item": split.dataset.item_tokens[sets.eval_set.targets].astype(str),
            "candidate_rank": candidate_ranks(sets, scores),
            "composed": reranked(sets, scores).rank,
        }
    )
    run = rundir.run_path(results, planned.cell)
    own = pd.read_parquet(run / "ranks.parquet", columns=["split", "user", "rank"])
    own = own[own["split"].astype(str) == _PART].astype({"user": str})
    return frame.merge(own[["user", "rank"]], on="user", how="left", validate="one_to_one")


def _scores(results: Path, planned: PlannedCell, sets: CandidateSets, split: Split, device: str) -> Floats:
    """Scores of the candidates by the method of a cell, float64 [n, N]."""
    if planned.spec.ranker is not None:
        return _stored(rundir.run_path(results, planned.cell), sets, split)
    from recbole_kd.benchmark.retriever import open_scorer

    score = open_scorer(results, rundir.run_path(results, planned.cell), split, device)
    student = planned.spec.student
    # Whole batches of all users, as when the run was ranked; of a model that writes, the asked users only.
    part = sets.eval_set if student.model in GENERATIVE else getattr(split, _PART)
    batch, row_of = student.train.eval_batch_size, np.searchsorted(part.history.users, sets.users)
    found = np.full(sets.items.shape, -np.inf)
    for begin in range(0, len(part), batch):
        rows = slice(begin, min(begin + batch, len(part)))
        here = np.flatnonzero((row_of >= rows.start) & (row_of < rows.stop))
        if len(here):
            whole = score(part, rows).float().cpu().numpy()[row_of[here] - begin]
            found[here] = np.take_along_axis(whole, sets.items[here], 1)
    found[~sets.real] = -np.inf
    return found


def _stored(run: Path, sets: CandidateSets, split: Split) -> Floats:
    """Scores that a ranker gave, from its run."""
    table = pd.read_parquet(run / "candidates.parquet")
    table = table[table["split"].astype(str) == _PART]
    user_id = {str(token): i for i, token in enumerate(split.dataset.user_tokens)}
    rows = np.searchsorted(sets.users, table["user"].astype(str).map(user_id).to_numpy())
    found = np.full(sets.items.shape, -np.inf)
    found[rows, table["place"].to_numpy() - 1] = table["score"].to_numpy()
    if np.isneginf(found[sets.real]).any():
        raise StoreError(f"{run}: ranked other candidates than those of this experiment")
    return found


def _write(
    path: Path, frame: pd.DataFrame, spec: CandidatesSpec, more: Mapping[str, str] | None = None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    buffer = io.BytesIO()
    said = {"recbole_kd": json.dumps(spec.canonical()), **(more or {})}
    pq.write_table(table.replace_schema_metadata(said), buffer, compression="zstd")
    write_bytes_atomic(path, buffer.getvalue())
