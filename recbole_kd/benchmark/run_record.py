"""What a run directory says of a finished cell: its manifest and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_kd.baselines import COMPUTED
from recbole_kd.benchmark import machine
from recbole_kd.benchmark.cost import run_cost
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.benchmark.pretraining import trained_on
from recbole_kd.benchmark.recommender_lists import RUN_STATE
from recbole_kd.benchmark.spec import CellSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from recbole_kd.benchmark.executor import CellTask
    from recbole_kd.benchmark.rerank import Reranked
    from recbole_kd.data.profile_table import ProfileTable
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import EvalSet, Split
    from recbole_kd.models.side import SideInputs
    from recbole_kd.ranking import Ranks
    from recbole_kd.training.fit import FitResult

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


@dataclass(frozen=True)
class Finished:
    """A cell that was trained and ranked and is not yet written.

    Attributes
    ----------
    task : CellTask
    spec, split, profiles, side
        What it was made from.
    result : FitResult
    parts, ranks : dict
        Part -> what was asked, and ranks.
    seconds : dict
        Wall clock of every step.
    stacked : bool
        Trained with other cells as one model.
    extra : Reranked or None
        What a re-ranking cell has besides.
    """

    task: CellTask
    spec: CellSpec
    split: Split
    profiles: ProfileTable | TeacherLists | None
    side: SideInputs
    result: FitResult
    parts: Mapping[str, EvalSet]
    ranks: Mapping[str, Ranks]
    seconds: dict[str, float]
    stacked: bool
    extra: Reranked | None


def manifest_of(cell: Finished) -> dict[str, Any]:
    """``manifest.json``: results, and everything that made them."""
    manifest = _what(cell) | _came_to(cell) | _made_by(cell) | _made_from(cell)
    return manifest if cell.extra is None else manifest | {"ranker": cell.extra.said}


def _what(cell: Finished) -> dict[str, Any]:
    """Which cell this is."""
    from recbole_kd.benchmark.students import serving_needs

    spec, student = cell.spec, cell.spec.student
    return {
        # Dataset and variant are names: another experiment may call the same run otherwise.
        "label": {name: cell.task.label[name] for name in ("backbone", "seed")},
        "written_as": cell.task.label,
        "model": student.model if spec.ranker is None else spec.ranker["spec"]["name"],
        "system": None if student.system is None else student.system.name,
        "serving_needs": serving_needs(spec),
        "inputs": cell.side.said(),
        "seeds": {"training": spec.seed, "data": spec.dataset.split.seed},
    }


def _came_to(cell: Finished) -> dict[str, Any]:
    """Results, and what they cost."""
    result, profiles = cell.result, cell.profiles
    read_by_system = (cell.side.manifests or {}).get("users")
    texts = None if profiles is None else profiles.manifest
    return {
        "metrics": _metrics(cell.ranks, cell.task.metrics),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "stopped_early": result.stopped_early,
        "patience_from": _patience_from(cell.spec),
        "n_parameters": result.n_parameters,
        "seconds": cell.seconds,
        "cost": run_cost(cell.spec, texts, result.seconds, read_by_system),
        "peak_memory_mb": round(machine.peak_memory_mb(), 1),
        "peak_gpu_memory_mb": machine.gpu_peak_mb(cell.task.device),
        "diagnostics": result.diagnostics,
    }


def _patience_from(spec: CellSpec) -> int:
    """Epoch after which patience counted: the end of distillation; 0 without it or under a falling rate."""
    from recbole_kd.benchmark.students import in_sequence_mode
    from recbole_kd.training.schedules import make_schedule

    train, distill = spec.student.train, spec.student.distill
    if distill is None or distill.alpha == 0 or train.rate_falls or not in_sequence_mode(spec):
        return 0
    return make_schedule(distill, train.epochs).patience_from


def _made_by(cell: Finished) -> dict[str, Any]:
    """Machine, versions and how the device was used."""
    execution = execution_of(cell.task.device)
    return {
        "device": _device_name(cell.task.device),
        "execution": {
            **(execution.of_stack() if cell.stacked else execution).canonical(),
            **_softmax(cell),
            "stacked": cell.stacked,
            "resumed_at": [part["epoch"] for part in cell.result.resumed],
            "earlier_parts": cell.result.resumed,
        },
        "machine": machine.machine(),
        "versions": machine.versions(),
        "code": machine.code(),
    }


def _softmax(cell: Finished) -> dict[str, str]:
    """Type of the products of a catalogue softmax: what the spec's ``auto`` came to."""
    from recbole_kd.benchmark.students import in_sequence_mode
    from recbole_kd.models.cross_entropy import resolve_precision

    train = cell.spec.student.train
    if not in_sequence_mode(cell.spec) or _loss(cell.spec) != "CE":
        return {}
    dtype = resolve_precision(train.softmax_precision, cell.task.device)
    return {"softmax_precision": str(dtype).removeprefix("torch.")}


def _made_from(cell: Finished) -> dict[str, Any]:
    """Digests of what was read, and the protocol."""
    task, split, profiles = cell.task, cell.split, cell.profiles
    return {
        "dataset_digest": split.dataset.digest,
        "split_digest": split.digest,
        "profile_digest": None if profiles is None else profiles.digest,
        "profile_coverage": None if profiles is None else profiles.coverage,
        "profile_file": _built_file(task.results, task.teacher),
        "lists_run": _lists_run(cell),
        "inputs_file": _built_file(task.results, (task.inputs or {}).get("users")),
        "profile_verified": None if profiles is None else profiles.verified,
        "profile": None if profiles is None else profiles.manifest,
        "protocol": _protocol(cell.spec, split),
        "counts": {**split.dataset.counts, **split.counts},
    }


def files_of(cell: Finished) -> dict[str, Callable[[Path], None]]:
    """Name -> what writes the file to a path; everything but ``manifest.json`` and ``spec.yaml``."""
    result = cell.result
    tables: dict[str, Callable[[], pa.Table]] = {
        "ranks.parquet": partial(ranks_table, cell.split, cell.parts, cell.ranks),
        "history.parquet": partial(_history_table, result.history),
        **({} if cell.extra is None else cell.extra.writers),
    }
    models = {"model.safetensors": result.state_dict}
    if result.states is not None:
        models["states.safetensors"] = result.states
    return {
        **{name: partial(_write_made, make) for name, make in tables.items()},
        **{name: partial(write_model, state) for name, state in models.items()},
    }


def _built_file(results: str, file: str | None) -> dict[str, str] | None:
    """Name and digest of an embedding file that was built for these results (not one of the user's)."""
    from recbole_kd.benchmark import rooms

    if file is None or Path(file).parent != rooms.profiles_folder(Path(results)):
        return None
    return {"name": Path(file).name, "sha256": rooms.digest_of(Path(file))}


def _lists_run(cell: Finished) -> dict[str, Any] | None:
    """Address of the recommender whose lists were learned, and the state of its run when they were made."""
    lists = cell.spec.lists or {}
    if "address" not in lists or cell.profiles is None:
        return None
    return {"run": lists["address"], "state": cell.profiles.manifest.get(RUN_STATE)}


def _metrics(ranks: Mapping[str, Ranks], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Means over users; ``<part>_masked`` leaves out the items of the user's history."""
    from recbole_kd.metrics import per_user

    result = {}
    for part, value in ranks.items():
        for suffix, rank in (("", value.rank), ("_masked", value.rank_masked)):
            result[part + suffix] = {name: float(per_user(rank, name).mean()) for name in names}
    return result


def stored_metrics(run: Path, part: str, metrics: Iterable[str]) -> dict[str, float]:
    """Means of any metrics over the users of a part, of the ranks that a run stored."""
    import pyarrow.parquet as pq

    from recbole_kd.metrics import per_user

    table = pq.read_table(run / "ranks.parquet", columns=["split", "rank"]).to_pandas()
    rank = table.loc[table["split"].astype(str) == part, "rank"].to_numpy()
    return {metric: float(per_user(rank, metric).mean()) for metric in metrics}


def _protocol(spec: CellSpec, split: Split) -> dict[str, Any]:
    """Everything that must stand beside a number for it to be compared with another."""
    from recbole_kd.data.report import split_report

    report = split_report(split, spec.dataset)
    kept = {name: report[name] for name in _PROTOCOL if name in report}
    if spec.ranker is not None:
        kept["re-ranked"] = _reranked_protocol(spec.ranker["candidates"])
    train = spec.student.train
    said = {"loss": _loss(spec), "ties": "average rank", "selected_by": train.valid_metric}
    if train.passed_over:
        said["kept_epochs"] = f"{train.passed_over + 1} to {train.epochs}"
    before = trained_on(spec)
    return {**kept, **said} | ({} if before is None else {"pretraining": before})


def _loss(spec: CellSpec) -> str:
    """Label of what a student minimises; CE: cross-entropy over the whole catalogue."""
    from recbole_kd.training.spec import loss_label

    student = spec.student
    if student.train.loss is not None:
        return loss_label(student.train.loss)
    return "closed form" if student.model in COMPUTED else str(student.hparams.get("loss_type", "CE"))


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


def ranks_table(split: Split, parts: Mapping[str, EvalSet], ranks: Mapping[str, Ranks]) -> pa.Table:
    """``ranks.parquet``: one row per target, with what slices are made by."""
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


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as parquet."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")


def _write_made(make: Callable[[], pa.Table], path: Path) -> None:
    write_table(make(), path)


def write_model(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors as safetensors, from whatever device."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, path)


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
