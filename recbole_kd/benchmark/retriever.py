"""A finished run as a scorer of all items: how candidates are retrieved and methods are compared on them."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.baselines import COMPUTED, GENERATIVE
from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.prefix import MARK, rebuild_prefix
from recbole_kd.errors import StoreError
from recbole_kd.ranking import average_tie_rank, last_items

if TYPE_CHECKING:
    from recbole_kd.baselines.llm.candidates import ScoreRows
    from recbole_kd.benchmark.spec import CellSpec
    from recbole_kd.data.types import EvalSet, Split
    from recbole_kd.models.side import SideInputs

# Scores of another device or kind of processor differ in the last bits, which swaps few ranks.
_MAY_DIFFER = 0.02


def open_scorer(results: Path, run: Path, split: Split, device: str = "cpu") -> ScoreRows:
    """Scores of all items by the model of a run directory, whatever kind of cell wrote it.

    Parameters
    ----------
    results : Path
        Whose cache holds the vectors that a system reads.
    run : Path
    split : Split
        The one that the run was trained on.

    Raises
    ------
    StoreError
        The run is damaged, of another split, or its model cannot be built again.
    """
    from recbole_kd.serving.student import read_spec

    manifest = rundir.read_manifest(run)
    fault = rundir.fault(run, run.name)
    if fault is not None:
        raise StoreError(fault)
    if manifest.get("split_digest") != split.digest:
        raise StoreError(f"{run}: was trained on another split ({manifest.get('split_digest')})")
    spec = read_spec(run)
    side = _side(results, spec, split)
    try:
        if spec.student.model in COMPUTED:
            return _computed(spec, split, side)
        if spec.student.model in GENERATIVE:
            return _generative(run, spec, split, device)
        if spec.student.model.startswith(MARK):
            return _prefix(run, spec, split, device)
        return _student(run, spec, split, side, device)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{run}: its {spec.student.model} cannot be built again ({reason})") from error


def _side(results: Path, spec: CellSpec, split: Split) -> SideInputs:
    from recbole_kd.benchmark.inputs import build_inputs, read_inputs

    return read_inputs(None if spec.inputs is None else build_inputs(results, spec, split), split)


def _generative(run: Path, spec: CellSpec, split: Split, device: str) -> ScoreRows:
    from safetensors.torch import load_file

    module = importlib.import_module(GENERATIVE[spec.student.model])
    state = load_file(run / "model.safetensors")
    score: ScoreRows = module.rebuilt(split, spec.student, state, spec.seed, device).score
    return score


def _computed(spec: CellSpec, split: Split, side: SideInputs) -> ScoreRows:
    """A closed form is computed again: that is what its run did."""
    from recbole_kd.baselines.run import compute

    return compute(split, spec.student, side).score


def _student(run: Path, spec: CellSpec, split: Split, side: SideInputs, device: str) -> ScoreRows:
    from safetensors.torch import load_file

    from recbole_kd.models.build import build_student

    student, length = spec.student, spec.dataset.max_item_list_length
    model = build_student(
        student.model,
        student.hparams,
        n_items=split.dataset.n_items,
        max_len=length,
        seed=spec.seed,
        device=device,
        system=student.system,
        side=side,
    )
    model.load_state_dict(load_file(run / "model.safetensors", device=device), strict=True)
    model.eval()

    @torch.no_grad()
    def score(part: EvalSet, rows: slice) -> Tensor:
        item_seq, item_seq_len = last_items(part, rows, length)
        users = torch.from_numpy(part.history.users[rows]).to(device)
        items, bias = model.item_table()
        scores: Tensor = model.serve_states(item_seq.to(device), item_seq_len.to(device), users) @ items.t()
        return scores if bias is None else scores + bias

    return score


def _prefix(run: Path, spec: CellSpec, split: Split, device: str) -> ScoreRows:
    from safetensors.torch import load_file

    length = spec.dataset.max_item_list_length
    state = load_file(run / "model.safetensors")
    with tempfile.TemporaryDirectory(prefix="recbole_kd-") as folder:
        model = rebuild_prefix(split, spec.student, state, spec.seed, device, length, Path(folder))

    @torch.no_grad()
    def score(part: EvalSet, rows: slice) -> Tensor:
        from recbole.data.interaction import Interaction

        item_seq, item_seq_len = last_items(part, rows, length)
        columns = {
            model.USER_ID: torch.from_numpy(part.history.users[rows]).to(device),
            model.ITEM_SEQ: item_seq.to(device),
            model.ITEM_SEQ_LEN: item_seq_len.to(device),
        }
        scores: Tensor = model.full_sort_predict(Interaction(columns))
        return scores.view(len(item_seq), -1)[:, : model.n_items]

    return score


def check_against_run(run: Path, split: Split, score: ScoreRows, batch_size: int) -> dict[str, Any]:
    """Compare the ranks that ``score`` gives on the test part with those that the run stored.

    Returns
    -------
    dict
        ``targets`` and how many of their ranks ``differ``.

    Raises
    ------
    StoreError
        More differ than another processor explains: the model is not the one that the run trained.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(run / "ranks.parquet", columns=["split", "user", "rank"]).to_pandas()
    table = table[table["split"].astype(str) == "test"]
    stored = dict(zip(table["user"].astype(str), table["rank"], strict=True))
    part, differ = split.test, 0
    for begin in range(0, len(part), batch_size):
        rows = slice(begin, min(begin + batch_size, len(part)))
        found = average_tie_rank(score(part, rows).cpu(), torch.from_numpy(part.targets[rows])).numpy()
        users = split.dataset.user_tokens[part.history.users[rows]].astype(str)
        differ += int((found != np.array([stored.get(user, np.nan) for user in users])).sum())
    if differ > _MAY_DIFFER * len(part):
        raise StoreError(
            f"{run}: {differ} of {len(part)} ranks are not those that the run stored; delete the run and run "
            "its cell again"
        )
    return {"targets": len(part), "differ": differ}
