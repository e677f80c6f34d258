"""Run one cell: split and teacher files -> student -> ranks -> run directory."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_kd.baselines import COMPUTED
from recbole_kd.benchmark import checkpoints, machine, rundir
from recbole_kd.benchmark.artefacts import Artefacts, read_split
from recbole_kd.benchmark.cost import run_cost
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.pretraining import trained_on
from recbole_kd.benchmark.spec import CellLabel, CellSpec
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from recbole_kd.benchmark.rerank import Reranked
    from recbole_kd.data.profile_table import ProfileTable
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import EvalSet, Split
    from recbole_kd.ranking import Ranks
    from recbole_kd.training.fit import FitResult, OnEpoch
    from recbole_kd.training.spec import DiagnosticsSpec

DONE, EXISTS, BUSY, FAILED = "done", "exists", "busy", "failed"
# What of the split's report must stand beside every number.
_PROTOCOL = (
    "dataset",
    "dataset_digest",
    "users",
    "items",
    "interactions",
    "filter",
    "split",
    "split_parameters",
    "max_item_list_length",
    "candidates",
    "seen_items",
)
# Random streams and thread counts belong to a process: a Dask worker with several threads must not
# train two cells at once.
_ONE_AT_A_TIME = threading.Lock()
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class CellTask:
    """Everything that a worker needs; plain values, so that it travels between machines.

    ``turn`` is its place in the sweep: of the tasks at hand the one with the lowest starts first.
    """

    results: str
    cell: str
    label: dict[str, Any]
    spec: dict[str, Any]
    split: str
    teacher: str | None
    device: str
    metrics: tuple[str, ...]
    inputs: dict[str, str] | None = None
    diagnostics: dict[str, Any] | None = None
    turn: int = 0

    @classmethod
    def build(
        cls,
        results: Path,
        cell: str,
        label: CellLabel,
        spec: CellSpec,
        files: Artefacts,
        device: str,
        metrics: tuple[str, ...],
        diagnostics: DiagnosticsSpec | None = None,
        turn: int = 0,
    ) -> CellTask:
        """Make the task of a planned cell."""
        teacher = None if files.teacher is None else str(files.teacher.resolve())
        return cls(
            str(results.resolve()),
            cell,
            label.canonical(),
            spec.canonical(),
            str(files.split.resolve()),
            teacher,
            device,
            metrics,
            files.inputs,
            None if diagnostics is None else diagnostics.canonical(),
            turn,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    status : str
        ``done``, ``exists`` (another process finished it), ``busy`` (another process is at it) or
        ``failed``.
    resumed_at : tuple of int
        Epochs after which an interrupted training went on.
    """

    cell: str
    status: str
    seconds: float = 0.0
    error: str | None = None
    trace: str | None = None
    resumed_at: tuple[int, ...] = ()


def run_cell(task: CellTask, on_epoch: OnEpoch | None = None, fitted: FitResult | None = None) -> Outcome:
    """Run one cell unless it exists or another process is at it; never raises for a failing cell.

    With ``fitted`` its training is over (it was a part of a stack); what is left is to rank and to write.
    """
    begin = time.perf_counter()
    results = Path(task.results)
    try:
        with _ONE_AT_A_TIME, try_lock(results, f"cell-{task.cell}") as held:
            if not held:
                return Outcome(task.cell, BUSY)
            begin = time.perf_counter()
            path = rundir.run_path(results, task.cell)
            if path.exists() and rundir.fault(path, task.cell) is None:
                checkpoints.path_of(results, task.cell).unlink(missing_ok=True)
                return Outcome(task.cell, EXISTS)
            resumed = _run(task, results, on_epoch, fitted)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trace = machine.redact(traceback.format_exc())
        return Outcome(task.cell, FAILED, time.perf_counter() - begin, machine.redact(text), trace)
    return Outcome(task.cell, DONE, time.perf_counter() - begin, resumed_at=resumed)


def limit_threads() -> None:
    """One torch thread: a process per core is faster than threads, and sums keep their order."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)


def _run(
    task: CellTask, results: Path, on_epoch: OnEpoch | None, fitted_before: FitResult | None
) -> tuple[int, ...]:
    """Train, rank, write; return the epochs after which an interrupted training went on."""
    begin = time.perf_counter()
    machine.reset_peak_memory()
    machine.reset_gpu_peak(task.device)
    limit_threads()
    from recbole_kd.benchmark.inputs import read_inputs
    from recbole_kd.benchmark.students import serving_needs, train
    from recbole_kd.training.spec import DiagnosticsSpec

    spec = CellSpec.model_validate(task.spec)
    split = read_split(Path(task.split))
    profiles = _profiles(spec, task.teacher, split)
    side = read_inputs(task.inputs, split)
    loaded = time.perf_counter()
    watched = None if task.diagnostics is None else DiagnosticsSpec.model_validate(task.diagnostics)
    checkpoint = checkpoints.of_cell(results, task.cell, task.device)
    extra: Reranked | None = None
    if spec.ranker is not None:
        from recbole_kd.benchmark.rerank import run_ranker

        extra = run_ranker(results, spec, split, (task.inputs or {}).get("users"), task.device, on_epoch)
        result, parts, ranks = extra.result, extra.parts, extra.ranks
        fitted = time.perf_counter()
    else:
        scratch = partial(rundir.scratch, results, task.cell)
        kept = results / "cache" / "tuned"
        more = kept, fitted_before, checkpoint
        result, rank = train(spec, split, profiles, side, task.device, on_epoch, scratch, watched, *more)
        fitted = time.perf_counter()
        parts = {"valid": split.valid, "test": split.test}
        ranks = {name: rank(part) for name, part in parts.items()}
    done = time.perf_counter()
    manifest = {
        # Dataset and variant are names: another experiment may call the same run otherwise.
        "label": {name: task.label[name] for name in ("backbone", "seed")},
        "written_as": task.label,
        "model": spec.student.model if spec.ranker is None else spec.ranker["spec"]["name"],
        "system": None if spec.student.system is None else spec.student.system.name,
        "serving_needs": serving_needs(spec),
        "inputs": side.said(),
        "metrics": _metrics(ranks, task.metrics),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "stopped_early": result.stopped_early,
        "n_parameters": result.n_parameters,
        "seconds": {
            **result.seconds,
            "load": loaded - begin,
            "fit": fitted - loaded + result.seconds_before,
            "rank": done - fitted,
            "total": done - begin + result.seconds_before,
        },
        "cost": run_cost(
            spec,
            None if profiles is None else profiles.manifest,
            result.seconds,
            (side.manifests or {}).get("users"),
        ),
        "peak_memory_mb": round(machine.peak_memory_mb(), 1),
        "peak_gpu_memory_mb": machine.gpu_peak_mb(task.device),
        "seeds": {"training": spec.seed, "data": spec.dataset.split.seed},
        "device": _device_name(task.device),
        "execution": {
            **execution_of(task.device).canonical(),
            "stacked": fitted_before is not None,
            "resumed_at": [part["epoch"] for part in result.resumed],
            "earlier_parts": result.resumed,
        },
        "machine": machine.machine(),
        "versions": machine.versions(),
        "code": machine.code(),
        "dataset_digest": split.dataset.digest,
        "split_digest": split.digest,
        "profile_digest": None if profiles is None else profiles.digest,
        "profile_coverage": None if profiles is None else profiles.coverage,
        "profile_file": _built_file(task.results, task.teacher),
        "inputs_file": _built_file(task.results, (task.inputs or {}).get("users")),
        "profile_verified": None if profiles is None else profiles.verified,
        "profile": None if profiles is None else profiles.manifest,
        "diagnostics": result.diagnostics,
        "protocol": _protocol(spec, split),
        "counts": {**split.dataset.counts, **split.counts},
    }
    writers = {
        "ranks.parquet": lambda path: _write_table(_ranks_table(split, parts, ranks), path),
        "history.parquet": lambda path: _write_table(_history_table(result.history), path),
        "model.safetensors": lambda path: _write_model(result.state_dict, path),
    }
    if extra is not None:
        manifest["ranker"] = extra.said
        for name, table in extra.writers.items():
            writers[name] = partial(_write_made, table)
    if result.states is not None:
        states = result.states
        writers["states.safetensors"] = lambda path: _write_model(states, path)
    rundir.write_run(results, task.cell, spec.canonical(), manifest, writers)
    checkpoint.remove()
    return tuple(part["epoch"] for part in result.resumed)


def _profiles(spec: CellSpec, teacher: str | None, split: Split) -> ProfileTable | TeacherLists | None:
    from recbole_kd.benchmark import rooms, teacher_lists

    if teacher is None:
        return None
    # It may have changed since planning; the address would then name other vectors.
    rooms.check_given(spec, teacher)
    if spec.lists is not None:
        return teacher_lists.read(teacher, spec, split)
    if spec.teacher is None:
        return None
    from recbole_kd.data.profile_table import load_profiles

    return load_profiles(teacher, split, trust_unverified=bool(spec.teacher.get("trust_unverified")))


def _built_file(results: str, file: str | None) -> dict[str, str] | None:
    """Name and digest of an embedding file that was built for these results (not one of the user's)."""
    from recbole_kd.benchmark import rooms

    if file is None or Path(file).parent != rooms.profiles_folder(Path(results)):
        return None
    return {"name": Path(file).name, "sha256": rooms.digest_of(Path(file))}


def _metrics(ranks: Mapping[str, Ranks], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Means over users; ``<part>_masked`` leaves out the items of the user's history."""
    from recbole_kd.metrics import per_user

    result = {}
    for part, value in ranks.items():
        for suffix, rank in (("", value.rank), ("_masked", value.rank_masked)):
            result[part + suffix] = {name: float(per_user(rank, name).mean()) for name in names}
    return result


def _protocol(spec: CellSpec, split: Split) -> dict[str, Any]:
    """Everything that must stand beside a number for it to be compared with another."""
    from recbole_kd.data.report import split_report
    from recbole_kd.training.spec import loss_label

    report = split_report(split, spec.dataset)
    kept = {name: report[name] for name in _PROTOCOL if name in report}
    if spec.ranker is not None:
        kept["re-ranked"] = _reranked_protocol(spec.ranker["candidates"])
    loss = "closed form" if spec.student.model in COMPUTED else spec.student.hparams.get("loss_type", "CE")
    train = spec.student.train
    if train.loss is not None:
        loss = loss_label(train.loss)
    said = {"loss": loss, "ties": "average rank", "selected_by": train.valid_metric}
    if train.passed_over:
        said["kept_epochs"] = f"{train.passed_over + 1} to {train.epochs}"
    before = trained_on(spec)
    return {**kept, **said} | ({} if before is None else {"pretraining": before})


def _reranked_protocol(candidates: Mapping[str, Any]) -> str:
    """The candidate protocol in words."""
    words = [f"top {candidates['top']} of the retriever"]
    if candidates["exclude_seen"]:
        words.append("items of the history left out")
    if candidates["oracle_candidates"]:
        words.append("TARGET ADDED BY HAND where it was missed")
    if candidates["max_users"] is not None:
        words.append(f"{candidates['max_users']} users sampled with seed {candidates['seed']}")
    return ", ".join(words)


def _ranks_table(split: Split, parts: Mapping[str, EvalSet], ranks: Mapping[str, Ranks]) -> pa.Table:
    import pyarrow as pa

    tables = [_part_table(split, name, parts[name], ranks[name]) for name in parts]
    return pa.concat_tables(tables).unify_dictionaries()


def _part_table(split: Split, name: str, part: EvalSet, ranks: Ranks) -> pa.Table:
    import pyarrow as pa

    dataset = split.dataset
    train_len = np.zeros(dataset.n_users, np.int32)
    train_len[split.train.users] = split.train.lengths
    users = part.history.users
    return pa.table(
        {
            "split": pa.array([name] * len(part)).dictionary_encode(),
            "user": pa.array(dataset.user_tokens[users].astype(str), pa.string()),
            "item": pa.array(dataset.item_tokens[part.targets].astype(str), pa.string()),
            "rank": pa.array(ranks.rank, pa.float32()),
            "rank_masked": pa.array(ranks.rank_masked, pa.float32()),
            "train_len": pa.array(train_len[users], pa.int32()),
            "history_len": pa.array(part.history.lengths, pa.int32()),
            "item_count": pa.array(split.train_item_counts()[part.targets], pa.int32()),
        }
    )


def _history_table(history: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys(key for row in history for key in row))
    return pa.table({name: [row.get(name) for row in history] for name in names})


def _write_table(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")


def _write_made(make: Callable[[], pa.Table], path: Path) -> None:
    _write_table(make(), path)


def _write_model(state: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, path)


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def task_from(data: Mapping[str, Any]) -> CellTask:
    """Rebuild a task from :func:`task_to`."""
    return CellTask(**{**data, "metrics": tuple(data["metrics"])})


def task_to(task: CellTask) -> dict[str, Any]:
    """Plain dictionary of a task."""
    return asdict(task)
