"""Fair tuning: every method gets the same trials, the same shared space and the same validation metric.

A trial is a cell like any other, so that it is stored under its address and never trained twice.
The sampler is seeded anew for every trial from its number: a study that was interrupted goes on
exactly as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark import record, rooms, rundir
from recbole_kd.benchmark.artefacts import Artefacts
from recbole_kd.benchmark.executor import FAILED, CellTask
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.prefix import MARK
from recbole_kd.benchmark.pretraining import of_student
from recbole_kd.benchmark.rankers import needs, repointed, with_retrievers
from recbole_kd.benchmark.resolve import Experiment
from recbole_kd.benchmark.run_record import stored_metrics
from recbole_kd.benchmark.spec import CellLabel, PlannedCell
from recbole_kd.benchmark.tuning_history import FILE, Method, alike, best_points, read_history, write_history
from recbole_kd.benchmark.tuning_space import Range, TuningSpec
from recbole_kd.benchmark.validate import did_you_mean, validated
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.strict import digest
from recbole_kd.training.spec import StudentSpec

if TYPE_CHECKING:
    from recbole_kd.benchmark.console import Reporter
    from recbole_kd.benchmark.engines import Engine
    from recbole_kd.benchmark.sweep import Builder


@dataclass
class Study:
    """Trials of one method on one dataset."""

    method: Method
    cell: PlannedCell
    configuration: str
    metric: str
    space: dict[str, Range]
    study: Any
    goal: int
    search: str
    first: dict[str, Any]

    @property
    def name(self) -> str:
        """How the study is called in reports."""
        return " ".join(self.method)

    def open_trial(self, seed: int, startup: int, sampler: str) -> Any | None:
        """Next trial to run: one that was interrupted, else a new one; ``None`` when the goal is met."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        states = optuna.trial.TrialState
        running = [t for t in trials if t.state == states.RUNNING]
        if running:
            return optuna.trial.Trial(self.study, running[0]._trial_id)
        if sum(t.state in (states.COMPLETE, states.FAIL) for t in trials) >= self.goal:
            return None
        begun = sum(t.state != states.WAITING for t in trials)
        if self.first and not trials:
            self.study.enqueue_trial(self.first)
        draw = int(digest([seed, begun], 8), 16)
        if sampler == "random":
            self.study.sampler = optuna.samplers.RandomSampler(seed=draw)
        else:
            self.study.sampler = optuna.samplers.TPESampler(seed=draw, n_startup_trials=startup)
        return self.study.ask({path: _distribution(r) for path, r in self.space.items()})

    def history(self) -> dict[str, Any]:
        """JSON-ready history, as the report reads it."""
        trials = self.study.get_trials(deepcopy=False)
        listed = [
            {"number": t.number, "value": t.value, "params": dict(t.params), "cell": t.user_attrs.get("cell")}
            for t in trials
            if t.state.is_finished()
        ]
        labels = dict(zip(("dataset", "backbone", "variant"), self.method, strict=True))
        return {
            "name": self.name,
            **labels,
            "metric": self.metric,
            "search": self.search,
            "configuration": self.configuration,
            "trials": listed,
        }


def _distribution(values: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.choices is not None:
        return CategoricalDistribution(values.choices)
    assert values.low is not None
    assert values.high is not None
    if values.integer:
        return IntDistribution(int(values.low), int(values.high), log=bool(values.log))
    return FloatDistribution(values.low, values.high, log=bool(values.log))


def tune(
    experiment: Experiment,
    tuning: TuningSpec,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    *,
    device: str,
    build: Builder,
) -> Path:
    """Tune every method of an experiment; what was tuned before is kept, that of other methods too.

    Every round asks each study for one trial and runs them all, so that neither the number of
    workers nor their speed changes what is tried.

    Returns
    -------
    Path
        ``tuning.json``, the whole history.

    Raises
    ------
    SpecError
        The experiment reports the seed of the trials.
    StoreError
        Every trial of some method failed, or another process is tuning this experiment.
    """
    _quiet()
    if tuning.training_seed in experiment.spec.seeds:
        raise SpecError(
            f"{experiment.source}: seeds: {tuning.training_seed} is the training_seed of the trials, which "
            "must not be reported; leave it out, or name a space with another training_seed (--space)"
        )
    with try_lock(results, f"tune-{experiment.name}") as held:
        if not held:
            raise StoreError(
                f"{results}: another process is tuning '{experiment.name}'; wait for it, or stop it"
            )
        return _tune(experiment, tuning, results, engine, reporter, device, build)


def _tune(
    experiment: Experiment,
    tuning: TuningSpec,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    device: str,
    build: Builder,
) -> Path:
    path = record.folder(results, experiment.name) / FILE
    before = read_history(path)
    studies = _studies(experiment, tuning, results)
    artefacts: dict[str, Artefacts] = {}
    with engine:
        while True:
            asked = []
            for study in studies:
                trial = study.open_trial(tuning.seed, tuning.startup_trials, tuning.sampler)
                if trial is not None:
                    cell = with_point(study.cell, dict(trial.params), tuning.training_seed)
                    asked.append((study, trial, cell))
            if not asked:
                break
            outcomes = _run(asked, artefacts, results, engine, device, build)
            for study, trial, cell in asked:
                _tell(study, trial, cell, results, outcomes[cell.cell], reporter)
            write_history(path, before, [s.history() for s in studies])
    dead = [s.name for s in studies if not any(t["value"] is not None for t in s.history()["trials"])]
    if dead:
        raise StoreError(f"{path}: every trial of '{dead[0]}' failed; look at the messages above")
    return path


Asked = tuple[Study, Any, PlannedCell]


def _studies(experiment: Experiment, tuning: TuningSpec, results: Path) -> list[Study]:
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    home = record.folder(results, experiment.name)
    home.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(home / "tuning.journal")))
    found = []
    search = digest({k: v for k, v in tuning.canonical().items() if k != "trials"})
    for cell in {_method(c.label): c for c in experiment.cells if c.spec.ranker is None}.values():
        method = _method(cell.label)
        student = cell.spec.student
        space = tuning.space(method[1], student.distill is not None, student.model.startswith(MARK))
        # A study belongs to what it searches: a changed space or dataset begins a new one.
        configuration = _configuration(cell)
        searched = {k: v.canonical() for k, v in space.items()}
        key = digest([method, searched, tuning.training_seed, configuration])
        study = create_study(study_name=key, storage=storage, direction="maximize", load_if_exists=True)
        metric = cell.spec.student.train.valid_metric
        first = _defaults(student, space) if tuning.start_with_defaults else {}
        found.append(Study(method, cell, configuration, metric, space, study, tuning.trials, search, first))
    return found


def _defaults(student: StudentSpec, space: Mapping[str, Range]) -> dict[str, Any]:
    """What an untuned cell has, as far as the space holds it; the sampler draws the rest."""
    known = student.canonical()
    found = {path: (known.get(path.partition(".")[0]) or {}).get(path.partition(".")[2]) for path in space}
    return {path: value for path, value in found.items() if space[path].holds(value)}


def _method(label: CellLabel) -> Method:
    return label.dataset, label.backbone, label.variant


def _configuration(cell: PlannedCell) -> str:
    """What is tuned: the address of the untuned cell, whatever seeds the experiment lists."""
    return cell.spec.model_copy(update={"seed": 0}).address()


def _configurations(cells: Sequence[PlannedCell]) -> dict[Method, str]:
    """Method -> configuration of those that are trained, in the order of the cells."""
    return {_method(c.label): _configuration(c) for c in cells if c.spec.ranker is None}


def _run(
    asked: Sequence[Asked],
    artefacts: dict[str, Artefacts],
    results: Path,
    engine: Engine,
    device: str,
    build: Builder,
) -> dict[str, str | None]:
    """Run the cells of one round; cell digest -> error, or ``None`` for success."""
    missing = {c.cell: c for _, _, c in asked if not rundir.whole(results, c.cell)}
    outcomes: dict[str, str | None] = {c.cell: None for _, _, c in asked}
    if not missing:
        return outcomes
    artefacts |= build(results, [c for c in missing.values() if c.cell not in artefacts])
    tasks = [
        CellTask.build(
            results,
            c.cell,
            c.label,
            c.spec,
            artefacts[c.cell],
            device,
            (c.spec.student.train.valid_metric,),
            turn=turn,
        )
        for turn, c in enumerate(missing.values())
    ]
    for outcome in engine.run(tasks):
        outcomes[outcome.cell] = (outcome.error or "failed") if outcome.status == FAILED else None
    return outcomes


def _tell(
    study: Study, trial: Any, cell: PlannedCell, results: Path, error: str | None, reporter: Reporter
) -> None:
    from optuna.trial import TrialState

    trial.set_user_attr("cell", cell.cell)
    if error is not None:
        study.study.tell(trial, state=TrialState.FAIL)
        reporter.note(f"{study.name}: trial {trial.number + 1}/{study.goal} failed: {error.splitlines()[0]}")
        return
    # Of the ranks: a run that another command wrote need not hold this metric in its manifest.
    run = rundir.run_path(results, cell.cell)
    value = stored_metrics(run, "valid", [study.metric])[study.metric]
    study.study.tell(trial, value)
    reporter.note(
        f"{study.name:<40} trial {trial.number + 1}/{study.goal}  valid {study.metric} {value:.4f}  "
        f"best {study.study.best_value:.4f}"
    )


def with_point(cell: PlannedCell, point: Mapping[str, Any], seed: int) -> PlannedCell:
    """The cell with other hyper-parameters and seed.

    Raises
    ------
    SpecError
        A path that the model does not have.
    """
    student = cell.spec.student.canonical()
    for path, value in point.items():
        part, _, key = path.partition(".")
        section = student.get(part)
        if not isinstance(section, dict) or key not in section:
            known = [f"{p}.{k}" for p in ("hparams", "train", "distill") for k in (student.get(p) or {})]
            raise SpecError(f"tuning: {cell.spec.student.model} has no '{path}'{did_you_mean(path, known)}")
        section[key] = value
    changed = validated(StudentSpec, student, f"tuning: {cell.spec.student.model}")
    update = {"student": changed, "inputs": of_student(cell.spec.inputs, changed), "seed": seed}
    update["student_source"] = rooms.student_source(changed, f"tuning: {cell.spec.student.model}")
    spec = cell.spec.model_copy(update=update)
    label = cell.label.model_copy(update={"seed": seed})
    return PlannedCell(label=label, spec=spec, cell=spec.address())


def tuned(
    experiment: Experiment,
    results: Path,
    keep: bool = True,
    wanted: Sequence[PlannedCell] | None = None,
) -> Experiment:
    """The experiment with the best parameters of every method, as ``<name>-tuned``.

    Parameters
    ----------
    keep : bool
        Copy the tuning history beside the tables of the new experiment, so that its report shows it.
    wanted : sequence of PlannedCell or None
        Cells whose methods must have been tuned. Of the others those stay that were tuned alike, so that
        the tables keep what an earlier command ran; None = every method must have been.

    Raises
    ------
    StoreError
        See :func:`best_points`.
    """
    cells = experiment.cells if wanted is None else _comparable(experiment, results, wanted)
    trained = [c for c in cells if c.spec.ranker is None]
    points = best_points(results, experiment.name, _configurations(cells))
    best = {c.cell: with_point(c, points[_method(c.label)], c.label.seed) for c in trained}
    # A re-ranker has no training of its own to tune: it takes the tuned retriever.
    cells = [best[c.cell] if c.cell in best else repointed(c, best) for c in cells]
    spec = experiment.spec.model_copy(update={"experiment": f"{experiment.name}-tuned"})
    if keep:
        history = (record.folder(results, experiment.name) / FILE).read_text(encoding="utf-8")
        rundir.write_text_atomic(record.folder(results, spec.experiment) / FILE, history)
    return replace(experiment, spec=spec, cells=cells)


def _comparable(experiment: Experiment, results: Path, wanted: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Cells of the methods that are wanted, and of those that were tuned like them."""
    every = {c.cell: c for c in experiment.cells}
    methods = _configurations(with_retrievers(list(wanted), every))
    others = {m: c for m, c in _configurations(experiment.cells).items() if m not in methods}
    kept = {*methods, *alike(results, experiment.name, methods, others)}
    left = {c.cell for c in experiment.cells if c.spec.ranker is None and _method(c.label) in kept}
    return [c for c in experiment.cells if (needs(c.spec) or c.cell) in left]


def _quiet() -> None:
    try:
        import optuna
    except ImportError as error:
        raise SpecError("'tune' needs optuna; install recbole-kd[hpo]") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import warnings

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
