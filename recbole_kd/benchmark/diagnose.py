"""What finished students know of a teacher's profiles, plain and placebo students included.

A distilled run keeps the states of its sample (``states.safetensors``); any other student is loaded and
looked at. All are compared with the same profiles: those of one variant, the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_kd.benchmark import properties, record, rooms, rundir
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.extras.plan import done_runs, read_plan, results_of
from recbole_kd.benchmark.marked_yaml import load_marked
from recbole_kd.benchmark.prefix import MARK
from recbole_kd.benchmark.resolve import DEFAULTS
from recbole_kd.benchmark.spec import CellLabel
from recbole_kd.benchmark.validate import validated
from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    from recbole_kd.benchmark.spec import PlannedCell
    from recbole_kd.data.types import Split
    from recbole_kd.training.spec import DiagnosticsSpec

COLUMNS = ("dataset", "backbone", "variant", "seed", "moment")


@dataclass(frozen=True)
class Finished:
    """The runs of an experiment that exist, and how they are looked at.

    Attributes
    ----------
    name : str
        For messages.
    cells : list of PlannedCell
    results : Path
        Folder that the runs lie below.
    diagnostics : DiagnosticsSpec
    """

    name: str
    cells: list[PlannedCell]
    results: Path
    diagnostics: DiagnosticsSpec


def find(source: str, results: Path) -> Finished:
    """An experiment by its YAML, its folder below the results (or that folder's name), or its YAML's name.

    A folder says what was run, whatever the YAML says by now or wherever it lies.

    Raises
    ------
    SpecError, StoreError
        There is no such experiment; a run is damaged or its dataset is no longer the same.
    """
    from recbole_kd.benchmark.resolve import load_experiment

    if not Path(source).is_file():
        for folder in (Path(source), results / source):
            if (folder / record.FILE).is_file():
                return _recorded(folder)
    experiment = load_experiment(source)
    cells = [c for c in experiment.cells if rundir.run_path(results, c.cell).is_dir()]
    return Finished(experiment.name, cells, results, experiment.spec.diagnostics)


def _recorded(folder: Path) -> Finished:
    """What ``experiment.json`` names and exists."""
    from recbole_kd.benchmark.reproduce import load_cell
    from recbole_kd.training.spec import DiagnosticsSpec

    plan = read_plan(folder)
    cells = []
    for cell, run in done_runs(folder, plan):
        label = CellLabel(**{name: cell[name] for name in CellLabel.model_fields})
        cells.append(load_cell(run)[0].model_copy(update={"label": label}))
    told = plan.get("diagnostics")
    if told is None:
        # Records of earlier versions do not say.
        told = load_marked(properties.find("experiment", DEFAULTS))["diagnostics"]
    spec = validated(DiagnosticsSpec, told, f"{folder / record.FILE}: diagnostics")
    return Finished(str(plan.get("experiment", folder.name)), cells, results_of(folder), spec)


def diagnose(finished: Finished, reference: str | None = None) -> list[dict[str, Any]]:
    """Measure every finished student of an experiment against the profiles of one variant.

    Parameters
    ----------
    finished : Finished
        See `find`.
    reference : str, optional
        Variant whose profiles are looked for; by default the first that has a teacher and is no placebo.

    Returns
    -------
    list of dict
        One per run and moment (``distilled``, ``final``): labels, ``retrieval@k`` through the run's own
        projection (None where there is none or the dimensions differ), ``decoded@k``, ``probe``, ``cka``,
        ``overlap@k``, and the chance levels ``chance@k`` and ``probe_chance``.

    Raises
    ------
    SpecError
        No finished run has profiles to compare with.
    """
    done, results = finished.cells, finished.results
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(c.label.dataset for c in done):
        cells = [c for c in done if c.label.dataset == dataset]
        split = read_split(split_file(results, cells[0].spec))
        file = _reference(cells, results, reference)
        rows += _Reference(split, file, finished.diagnostics).rows(cells, results)
    if not rows:
        raise SpecError(f"diagnose: no run of {finished.name} in {results}; run it first")
    return rows


def _reference(cells: list[PlannedCell], results: Path, reference: str | None) -> Path:
    """Embedding file of the reference variant."""
    for cell in cells:
        if reference is not None and cell.label.variant != reference:
            continue
        manifest = rundir.read_manifest(rundir.run_path(results, cell.cell))
        if reference is None and (manifest.get("profile") or {}).get("placebo"):
            continue
        if cell.spec.teacher_file is not None:
            return Path(cell.spec.teacher_file)
        if manifest.get("profile_file"):
            return rooms.profiles_folder(results) / str(manifest["profile_file"]["name"])
    which = f"variant '{reference}' has" if reference else "no variant has"
    raise SpecError(f"diagnose: {which} a finished run with profiles; run one, or name it with --teacher")


def _shares_space(cell: PlannedCell) -> bool:
    """Whether a student's states were compared with standardised profiles, as the reference's are here."""
    distill = cell.spec.student.distill
    return distill is not None and distill.projection != "teacher" and distill.target == "standardised"


class _Reference:
    """The profiles that are looked for, and the sample of users."""

    def __init__(self, split: Split, file: Path, spec: DiagnosticsSpec) -> None:
        from recbole_kd import diagnostics as measure
        from recbole_kd.data.profile_table import load_profiles
        from recbole_kd.training.diagnostics import mean_profiles, sample_users

        self._split, self._spec = split, spec
        table = load_profiles(file, split, trust_unverified=True)
        self._vectors, known = mean_profiles(table)
        self._candidates = np.flatnonzero(known)
        self._users = sample_users(split, known, spec.users, spec.seed)
        self._classes = measure.clusters(self._vectors[self._users], spec.clusters, spec.seed)

    def rows(self, cells: list[PlannedCell], results: Path) -> list[dict[str, Any]]:
        """Rows of all cells that can be looked at."""
        found = []
        for cell in cells:
            label = cell.label.canonical()
            for moment, users, state, compared in self._states(cell, rundir.run_path(results, cell.cell)):
                found.append({**label, "moment": moment, **self._measured(users, state, compared)})
        return found

    def _states(self, cell: PlannedCell, run: Path) -> list[tuple[str, Any, Any, Any]]:
        """(moment, users, pooled states, states as compared or None)."""
        from safetensors.numpy import load_file

        if (run / "states.safetensors").is_file():
            stored = load_file(run / "states.safetensors")
            moments = [m for m in ("distilled", "final") if f"{m}.state" in stored]
            return [(m, stored["users"], stored[f"{m}.state"], stored.get(f"{m}.compared")) for m in moments]
        if cell.spec.student.model.startswith(MARK) or cell.spec.student.system is not None:
            return []
        return [("final", self._users, self._load(cell, run), None)]

    def _load(self, cell: PlannedCell, run: Path) -> Any:
        """Pooled states of a stored student without head: mean of its final output."""
        import torch
        from safetensors.torch import load_file

        from recbole_kd.models.build import build_student
        from recbole_kd.models.mixin import padded_batch
        from recbole_kd.training.diagnostics import last_train_items

        student, width = cell.spec.student, cell.spec.dataset.max_item_list_length
        n_items = self._split.dataset.n_items
        model = build_student(student.model, student.hparams, n_items=n_items, max_len=width, seed=0)
        model.load_state_dict(load_file(run / "model.safetensors"))
        model.eval()
        batch = padded_batch(*last_train_items(self._split.train, self._users, width))
        with torch.no_grad():
            return model.distil_state(model.encode(batch, None), batch).numpy()

    def _measured(self, users: Any, state: Any, compared: Any) -> dict[str, float | None]:
        from recbole_kd import diagnostics as measure
        from recbole_kd.training.diagnostics import decoded

        # A teacher without the reference's coverage may have watched others.
        kept = np.isin(users, self._users)
        own = np.searchsorted(self._candidates, users[kept])
        classes = self._classes[np.searchsorted(self._users, users[kept])]
        candidates, teacher, k = self._vectors[self._candidates], self._vectors[users[kept]], self._spec.k
        retrieval = None
        if compared is not None and compared.shape[1] == candidates.shape[1]:
            retrieval = measure.retrieval_at_k(compared[kept], candidates, own, k)
        return {
            f"retrieval@{k}": retrieval,
            **decoded(state[kept], teacher, candidates, own, classes, self._spec),
            "cka": measure.linear_cka(state[kept], teacher),
            f"overlap@{k}": measure.neighbour_overlap(state[kept], teacher, k),
            "chance@k": measure.chance_at_k(len(candidates), k),
            "probe_chance": float(np.bincount(classes).max() / len(classes)),
        }
