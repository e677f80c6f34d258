"""Optional experiment trackers: TensorBoard, MLflow, Weights & Biases; none unless asked for.

The driver hands a run over when it has finished, so that workers need no tracker, no network and
no key, and a cell that was lost and run again appears once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.console import Reporter
from recbole_kd.benchmark.executor import DONE, Outcome
from recbole_kd.benchmark.plan import CellState, Plan
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import UserError

Row = dict[str, float]


class Tracker(Protocol):
    """Takes finished runs."""

    def log(self, name: str, params: dict[str, Any], epochs: Sequence[Row], final: Row) -> None:
        """Record one run: parameters, one row of numbers per epoch, numbers of the end."""
        ...


class TensorBoard:
    """Event files in ``<results>/trackers/tensorboard/<run>``."""

    def __init__(self, results: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter
        self._folder = results / "trackers" / "tensorboard"

    def log(self, name: str, params: dict[str, Any], epochs: Sequence[Row], final: Row) -> None:
        """See :class:`Tracker`."""
        writer = self._writer(str(self._folder / name.replace(" ", "_")))
        try:
            for row in epochs:
                for key, value in row.items():
                    writer.add_scalar(key, value, int(row["epoch"]))
            for key, value in final.items():
                writer.add_scalar(key, value, len(epochs))
            writer.add_text("parameters", "\n".join(f"    {k}: {v}" for k, v in params.items()))
        finally:
            writer.close()


class MLflow:
    """Runs of the experiment ``recbole_kd`` where ``MLFLOW_TRACKING_URI`` says, else below the results."""

    def __init__(self, results: Path) -> None:
        import os

        mlflow = import_module("mlflow")
        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            folder = (results / "trackers").resolve()
            folder.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("recbole_kd")

    def log(self, name: str, params: dict[str, Any], epochs: Sequence[Row], final: Row) -> None:
        """See :class:`Tracker`."""
        with self._mlflow.start_run(run_name=name):
            self._mlflow.log_params(params)
            for row in epochs:
                self._mlflow.log_metrics({_plain(k): v for k, v in row.items()}, step=int(row["epoch"]))
            self._mlflow.log_metrics({_plain(k): v for k, v in final.items()})


class WandB:
    """Runs of the project ``recbole_kd``; ``WANDB_MODE=offline`` keeps them below the results."""

    def __init__(self, results: Path) -> None:
        self._wandb = import_module("wandb")
        self._folder = results / "trackers"
        self._folder.mkdir(parents=True, exist_ok=True)

    def log(self, name: str, params: dict[str, Any], epochs: Sequence[Row], final: Row) -> None:
        """See :class:`Tracker`."""
        run = self._wandb.init(
            project="recbole_kd", name=name, config=params, dir=str(self._folder), reinit="finish_previous"
        )
        for row in epochs:
            run.log(row, step=int(row["epoch"]))
        run.summary.update(final)
        run.finish(quiet=True)


def _plain(name: str) -> str:
    """MLflow allows no ``@`` in names."""
    return name.replace("@", "_at_")


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def make_trackers(names: Sequence[str], results: Path) -> list[Tracker]:
    """Trackers by name.

    Raises
    ------
    UserError
        Unknown name, or its package is not installed.
    """
    made = []
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--tracker: unknown tracker '{name}'{did_you_mean(name, TRACKERS)}")
        try:
            made.append(TRACKERS[name](results))
        except ImportError as error:
            raise UserError(
                f"--tracker {name}: the package '{error.name or name}' is not installed"
            ) from error
    return made


class TrackedReporter:
    """A reporter that also hands finished runs to trackers."""

    def __init__(self, inner: Reporter, trackers: Sequence[Tracker], results: Path) -> None:
        self._inner, self._trackers, self._results = inner, trackers, results

    def planned(self, plan: Plan, workers: int) -> None:
        """See :class:`Reporter`."""
        self._inner.planned(plan, workers)

    def note(self, message: str) -> None:
        """See :class:`Reporter`."""
        self._inner.note(message)

    def finished(self, state: CellState, outcome: Outcome, metric: tuple[str, float] | None) -> None:
        """See :class:`Reporter`; a tracker that fails costs a line, never the sweep."""
        self._inner.finished(state, outcome, metric)
        if outcome.status != DONE:
            return
        path = rundir.run_path(self._results, outcome.cell)
        for tracker in self._trackers:
            try:
                tracker.log(str(state.planned.label), _params(state), _epochs(path), _final(path))
            except Exception as error:
                self._inner.note(f"tracker {type(tracker).__name__}: {type(error).__name__}: {error}")

    def table(self, folder: Path, final: bool) -> None:
        """See :class:`Reporter`."""
        self._inner.table(folder, final)

    @contextmanager
    def running(self, total: int, done: int, estimate: float | None) -> Iterator[None]:
        """See :class:`Reporter`."""
        with self._inner.running(total, done, estimate):
            yield


def _params(state: CellState) -> dict[str, Any]:
    student = state.planned.spec.student.canonical()
    flat = {
        f"{part}.{k}": v for part in ("hparams", "train", "distill") for k, v in (student[part] or {}).items()
    }
    return {**state.planned.label.canonical(), "cell": state.cell, "model": student["model"], **flat}


def _epochs(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path / "history.parquet").to_pylist()
    return [{k: float(v) for k, v in row.items() if isinstance(v, int | float) and v == v} for row in rows]


def _final(path: Path) -> Row:
    manifest = rundir.read_manifest(path)
    parts: dict[str, Row] = manifest["metrics"]
    return {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
