"""What cells share, built once per results folder: splits and the teachers' embedding files.

Everything lies in ``<results>/cache`` under its content address. A lock that dies with its
process lets exactly one builder work while others wait for its result.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.benchmark.child import Child, in_child
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.prefix import MARK
from recbole_kd.benchmark.spec import CellSpec, PlannedCell
from recbole_kd.data.types import Dataset, EvalSet, Sequences, Split
from recbole_kd.errors import StoreError
from recbole_kd.strict import digest

# Raised when the layout of a stored split changes.
_FORMAT = 1
_WHAT = "builds splits and teachers"


@dataclass(frozen=True)
class Artefacts:
    """Files that a cell reads, and the share of train users that its teacher knows."""

    split: Path
    teacher: Path | None
    coverage: float | None
    inputs: dict[str, str] | None = None


Builder = Callable[[Path, Sequence[PlannedCell]], dict[str, Artefacts]]
Making = Child[dict[str, Artefacts]]
BuilderBeside = Callable[[Path, Sequence[PlannedCell], Sequence[PlannedCell]], Making]


def split_key(cell: CellSpec) -> str:
    """Content address of the split of a cell."""
    spec = cell.dataset
    parts = {
        "format": _FORMAT,
        "inter": cell.dataset_source["inter"],
        "name": spec.name,
        "fields": spec.fields.canonical(),
        "filter": spec.filter.canonical(),
        "split": spec.split.canonical(),
    }
    return digest(parts)


def split_file(results: Path, cell: CellSpec) -> Path:
    """Return the stored split of a cell, making it first where it is missing.

    Raises
    ------
    DataError
        The dataset is malformed or leaves nobody to test; nothing is written.
    StoreError
        The results folder cannot be written.
    """
    from recbole_kd.data.load import load_dataset
    from recbole_kd.data.split import make_split

    key = split_key(cell)
    mapped = cell.dataset.memory is not None
    path = results / "cache" / "splits" / (f"{key}.mapped" if mapped else f"{key}.npz")
    if not path.exists():
        split = make_split(load_dataset(cell.dataset), cell.dataset.split)
        with wait_lock(results, f"split-{key}"):
            if not path.exists():
                (_write_mapped if mapped else _write_split)(path, split)
    return path


def build(results: Path, planned: Sequence[PlannedCell]) -> dict[str, Artefacts]:
    """Make (or find) the split and the teacher file of every cell, and try every student on them.

    A bad value or a bad file is thus found before any cell runs.

    Returns
    -------
    dict
        Cell digest -> files.

    Raises
    ------
    UserError
    """
    from recbole_kd.benchmark import rooms
    from recbole_kd.benchmark.inputs import build_inputs

    splits: dict[str, Split] = {}
    tables: dict[str, tuple[Path, Any]] = {}
    tried: set[str] = set()
    inputs: dict[str, dict[str, str]] = {}
    result = {}
    for cell in planned:
        path = split_file(results, cell.spec)
        key = path.name
        if key not in splits:
            splits[key] = read_split(path)
        files, dimension = Artefacts(path, None, None), None
        if cell.spec.teacher is not None or cell.spec.lists is not None:
            name = _table_name(cell.spec, key)
            if name not in tables:
                tables[name] = rooms.teacher_table(results, cell.spec, splits[key])
            file, table = tables[name]
            files = Artefacts(path, file, table.coverage)
            states = getattr(table.vectors, "vectors", table.vectors)  # of lists: the table of their maker
            dimension = None if states is None else states.shape[-1]
            _try_confidence(cell, splits[key], table, tried)
        if cell.spec.inputs is not None:
            # The student names the language encoder that it reads items with.
            own = cell.spec.student.hparams.get("encoder")
            name = digest([cell.spec.inputs, own, key, cell.spec.dataset.canonical()])
            if name not in inputs:
                inputs[name] = build_inputs(results, cell.spec, splits[key])
            files = replace(files, inputs=inputs[name])
        student = digest([cell.spec.student.canonical(), dimension, files.inputs])
        if student not in tried:
            tried.add(student)
            _try_student(cell, dimension, files.inputs)
        result[cell.cell] = files
    return result


def _table_name(cell: CellSpec, split: str) -> str:
    """Equal for cells that share their teacher's file."""
    from recbole_kd.benchmark.rooms import learns_attributes
    from recbole_kd.benchmark.teacher_lists import learns_states

    content = [cell.teacher, cell.teacher_source, cell.lists, learns_attributes(cell), split]
    return digest([*content, cell.lists is not None and learns_states(cell), cell.dataset.canonical()])


def _try_student(cell: PlannedCell, dimension: int | None, inputs: dict[str, str] | None) -> None:
    """Build a student on a toy catalogue and attach a teacher of the right dimension."""
    import torch

    from recbole_kd.baselines import COMPUTED, GENERATIVE
    from recbole_kd.models.build import build_student
    from recbole_kd.models.side import toy_inputs
    from recbole_kd.training.attach import check_average

    spec = cell.spec.student
    if spec.model in GENERATIVE:
        importlib.import_module(GENERATIVE[spec.model]).check(spec)
        return
    if spec.model.startswith(MARK) or spec.model in COMPUTED or cell.spec.ranker is not None:
        return
    files = inputs or {}
    widths = {name: _width(Path(files[name])) for name in ("items", "users") if name in files}
    side = toy_inputs(4, widths.get("items"), widths.get("users"))
    model = build_student(
        spec.model, spec.hparams, n_items=4, max_len=8, seed=0, system=spec.system, side=side
    )
    check_average(model, spec)
    if spec.distill is not None and (dimension is not None or cell.spec.lists is not None):
        from recbole_kd.training.gradients import get_conflict
        from recbole_kd.training.schedules import make_schedule

        if cell.spec.lists is not None:
            lists = torch.tensor([[0, 0], [1, 2], [2, 1]])
            given = lists, torch.zeros(3, 2), (lists > 0).any(1)
            if spec.distill.also is not None:
                assert dimension is not None
                states = torch.eye(3, dimension), torch.ones(3, dtype=torch.bool)
                model.attach_both(spec.distill, given, states, 0)
            else:
                model.attach_lists(spec.distill, *given, 0)
        else:
            assert dimension is not None
            model.attach_teacher(spec.distill, torch.eye(3, dimension), torch.ones(3, dtype=torch.bool), 0)
        make_schedule(spec.distill, spec.train.epochs)
        get_conflict(spec.distill.gradient_conflict)


def _try_confidence(cell: PlannedCell, split: Split, table: Any, tried: set[str]) -> None:
    """Read the confidences of a cell once for every file, column, split and teacher."""
    from recbole_kd.data.confidence import load_confidence

    distill = cell.spec.student.distill
    if distill is None or distill.confidence is None:
        return
    name = digest([distill.confidence, distill.confidence_column, split.digest, table.digest])
    if name not in tried:
        tried.add(name)
        load_confidence(distill.confidence, distill.confidence_column, split, table.mask)


def _width(path: Path) -> int:
    """Dimension of the vectors in a parquet file, from its schema alone."""
    import pyarrow.parquet as pq

    return int(pq.read_schema(path).field("vector").type.list_size)


def build_in_child(results: Path, planned: Sequence[PlannedCell]) -> dict[str, Artefacts]:
    """Like :func:`build`, in a process of its own, so that its memory (a language model's) is given back.

    Raises
    ------
    UserError
        As :func:`build`; or the process was killed.
    """
    return in_child(_WHAT, build, results, list(planned))


def build_beside(results: Path, first: Sequence[PlannedCell], rest: Sequence[PlannedCell]) -> Making:
    """Start :func:`build` in a process of its own, on one thread: ``rest`` is made while ``first`` trains.

    Its first result is that of ``first``, its second that of ``rest``.
    """
    return Child(_WHAT, _build_one_by_one, results, list(first), list(rest), results=2, relayed=True)


def _build_one_by_one(results: Path, *parts: Sequence[PlannedCell]) -> Iterator[dict[str, Artefacts]]:
    from recbole_kd.benchmark.executor import limit_threads

    limit_threads()
    for part in parts:
        yield build(results, part)


def builders(*, in_process: bool) -> tuple[Builder, BuilderBeside | None]:
    """How a sweep gets its files: all before the first cell, and if it may, while cells run."""
    return (build, None) if in_process else (build_in_child, build_beside)


def needs_building(cell: CellSpec) -> bool:
    """Whether a cell reads more than its split: profiles, lists, item vectors, pre-trained weights."""
    return any(part is not None for part in (cell.teacher, cell.lists, cell.inputs, cell.ranker))


def read_split(path: Path) -> Split:
    """Read a stored split; one in a folder of arrays stays there and is mapped into memory.

    Raises
    ------
    StoreError
        The file is damaged; it says so and names the mend.
    """
    try:
        if path.is_dir():
            data = {f.stem: _load(f) for f in path.glob("*.npy")}
        else:
            with np.load(path, allow_pickle=False) as stored:
                data = {name: stored[name] for name in stored.files}
        meta = json.loads(bytes(data.pop("meta")).decode())
        dataset = Dataset(
            name=meta["name"],
            user_tokens=_tokens(data, "user_tokens"),
            item_tokens=_tokens(data, "item_tokens"),
            sequences=_sequences(data, "all"),
            times=data["times"],
            ratings=data.get("ratings"),
            counts=meta["dataset_counts"],
            digest=meta["dataset_digest"],
            file_rows=data.get("file_rows"),
        )
        parts = {name: EvalSet(_sequences(data, name), data[f"{name}_targets"]) for name in ("valid", "test")}
        valid, test = parts["valid"], parts["test"]
        named = meta["digest"], meta["counts"], data.get("train_begins")
        return Split(dataset, _sequences(data, "train"), valid, test, *named)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error


def _write_split(path: Path, split: Split) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_arrays(split))  # type: ignore[arg-type]
    write_bytes_atomic(path, buffer.getvalue())


def _write_mapped(path: Path, split: Split) -> None:
    """Write a folder of arrays, whole or not at all, without holding more than a stretch of one."""
    tmp = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        tmp.mkdir(parents=True)
        for name, array in _arrays(split).items():
            np.save(tmp / f"{name}.npy", array, allow_pickle=False)
        os.rename(tmp, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _arrays(split: Split) -> dict[str, NDArray[Any]]:
    """Everything of a split, by the name that :func:`read_split` looks for."""
    dataset = split.dataset
    arrays: dict[str, NDArray[Any]] = {"times": dataset.times}
    for name in ("ratings", "file_rows"):
        column = getattr(dataset, name)
        if column is not None:
            arrays[name] = column
    for name in ("user_tokens", "item_tokens"):
        text = json.dumps([str(token) for token in getattr(dataset, name)])
        arrays[name] = np.frombuffer(text.encode(), np.uint8)
    groups = {"all": dataset.sequences, "train": split.train}
    groups |= {"valid": split.valid.history, "test": split.test.history}
    for name, sequences in groups.items():
        for column in ("users", "offsets", "items"):
            arrays[f"{name}_{column}"] = getattr(sequences, column)
    if split.train_begins is not None:
        arrays["train_begins"] = split.train_begins
    for name in ("valid", "test"):
        arrays[f"{name}_targets"] = getattr(split, name).targets
    meta = {
        "name": dataset.name,
        "dataset_counts": dataset.counts,
        "dataset_digest": dataset.digest,
        "digest": split.digest,
        "counts": split.counts,
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    return arrays


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder and rename it.

    Raises
    ------
    StoreError
    """
    tmp = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.write_bytes(content)
        os.replace(tmp, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        tmp.unlink(missing_ok=True)


def _load(file: Path) -> NDArray[Any]:
    """An array of a mapped split: one that has a row per interaction stays in its file."""
    large = file.stem.endswith("_items") or file.stem in ("times", "ratings", "file_rows")
    array: NDArray[Any] = np.load(file, mmap_mode="r" if large else None, allow_pickle=False)
    return array


def _tokens(data: dict[str, NDArray[Any]], name: str) -> NDArray[np.object_]:
    return np.array(json.loads(bytes(data[name]).decode()), dtype=object)


def _sequences(data: dict[str, NDArray[Any]], name: str) -> Sequences:
    return Sequences(data[f"{name}_users"], data[f"{name}_offsets"], data[f"{name}_items"])
