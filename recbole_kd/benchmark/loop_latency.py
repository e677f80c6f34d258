"""``loop-latency``: milliseconds per user of every method of a sweep, those with a language model included.

One user is served at a time: a student scores the catalogue; a re-ranker has its retriever score the
catalogue, takes the candidates and asks the model, which answers anew (nothing is read from the store).
Every user is served by all methods in an order drawn anew, so that whatever else the machine does falls
on all of them alike. The rows go to ``<experiment>/loop.json``, which cost table and figures read.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recbole_kd.baselines.llm.base import Usage
from recbole_kd.baselines.llm.candidates import CandidateSets, build_candidates
from recbole_kd.baselines.llm.spec import CandidatesSpec
from recbole_kd.benchmark import record, rundir
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.rerank import candidate_sets, candidates_spec, open_ranker
from recbole_kd.benchmark.resolve import Experiment
from recbole_kd.benchmark.retriever import open_scorer
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.errors import UserError

FILE = "loop.json"
_QUICK = 0.05  # seconds: who answers faster is served twice, and the second time counts
Serve = Callable[[EvalSet], Usage]
"""serves one user; says what a language model took, nothing where there is none"""


@dataclass(frozen=True)
class Timed:
    """Milliseconds per user of one method, and what a language model took for that: means over the users.

    ``usd_per_1000`` is per 1,000 lists of recommendations; ``None`` where the model has no known price.
    """

    dataset: str
    backbone: str
    variant: str
    cell: str
    users: int
    p50_ms: float
    p95_ms: float
    calls_per_user: float
    prompt_tokens: float
    completion_tokens: float
    usd_per_1000: float | None


def measure_loop(
    experiment: Experiment,
    results: Path,
    users: int,
    *,
    device: str,
    note: Callable[[str], None],
    variants: Sequence[str] | None = None,
) -> list[Timed]:
    """Time the first seed's run of every method (of ``variants``, if given) and write ``loop.json``.

    Parameters
    ----------
    users : int
        Of the sample that rankers were asked for; each is served once by every method, one more beforehand
        to warm up.
    note : callable
        Is told which methods were left out, and why.

    Raises
    ------
    UserError
        No candidates in this experiment, or nothing has run.
    """
    if experiment.spec.candidates.retriever is None:
        raise UserError(
            f"{experiment.name}: names no retriever under 'candidates'; use serve-latency instead"
        )
    rows: list[Timed] = []
    for dataset in dict.fromkeys(c.label.dataset for c in experiment.cells):
        cells = _first(experiment, results, dataset, variants)
        if cells:
            rows += _measure(experiment, cells, results, users, device, note)
    if not rows:
        raise UserError(f"{experiment.name}: no finished run to time; run the experiment first")
    path = record.folder(results, experiment.name) / FILE
    said = {"format": 1, "device": device, "rows": [asdict(row) for row in rows]}
    rundir.write_text_atomic(path, json.dumps(said, indent=1) + "\n")
    return rows


def _first(
    experiment: Experiment, results: Path, dataset: str, variants: Sequence[str] | None
) -> list[PlannedCell]:
    """The finished cell with the lowest seed of every method on a dataset."""
    found: dict[tuple[str, str], PlannedCell] = {}
    for cell in sorted(experiment.cells, key=lambda c: c.label.seed):
        wanted = variants is None or cell.label.variant in variants
        done = (rundir.run_path(results, cell.cell) / rundir.MANIFEST).is_file()
        if cell.label.dataset == dataset and wanted and done:
            found.setdefault((cell.label.backbone, cell.label.variant), cell)
    return list(found.values())


def _measure(
    experiment: Experiment,
    cells: list[PlannedCell],
    results: Path,
    users: int,
    device: str,
    note: Callable[[str], None],
) -> list[Timed]:
    split = read_split(split_file(results, cells[0].spec))
    spec = experiment.spec.candidates
    retriever = next((c for c in experiment.cells if _is(c, spec, cells[0].label.dataset)), None)
    assert retriever is not None
    asked = candidate_sets(results, retriever.cell, spec, split, device)["test"].eval_set
    part = asked.take(np.arange(min(users + 1, len(asked))))
    with tempfile.TemporaryDirectory(prefix="recbole_kd-") as scratch:
        served: list[tuple[PlannedCell, Serve]] = []
        for number, cell in enumerate(cells):
            try:
                serve = _server(cell, results, split, device, Path(scratch) / str(number))
                serve(part.take(np.array([0])))
            except (UserError, NotImplementedError) as error:
                note(f"{cell.label}: not timed ({error})")
                continue
            served.append((cell, serve))
        times, usages = _times([serve for _, serve in served], part)
    return [_row(cell, mine, used) for (cell, _), mine, used in zip(served, times.T, usages, strict=True)]


def _row(cell: PlannedCell, times: np.ndarray, usages: Sequence[Usage]) -> Timed:
    def mean(name: str) -> float:
        return float(np.mean([getattr(usage, name)[0] for usage in usages]))

    p50, p95 = (float(np.percentile(times, p)) for p in (50, 95))
    usd = mean("usd")
    return Timed(
        **cell.label.model_dump(include={"dataset", "backbone", "variant"}),
        cell=cell.cell,
        users=len(times),
        p50_ms=p50,
        p95_ms=p95,
        calls_per_user=mean("calls"),
        prompt_tokens=mean("prompt_tokens"),
        completion_tokens=mean("completion_tokens"),
        usd_per_1000=None if np.isnan(usd) else 1000 * usd,
    )


def _is(cell: PlannedCell, spec: CandidatesSpec, dataset: str) -> bool:
    wanted, label = spec.retriever, cell.label
    assert wanted is not None
    return (label.dataset, label.backbone, label.variant) == (dataset, wanted.backbone, wanted.variant)


def _times(serve: Sequence[Serve], part: EvalSet) -> tuple[np.ndarray, list[list[Usage]]]:
    """Milliseconds [users, methods] and what each method took for every user; row 0 of ``part`` warmed up."""
    draw, n = np.random.default_rng(0), max(len(part) - 1, 1)
    times, usages = np.empty((n, len(serve))), [[Usage.zeros(1)] * n for _ in serve]
    for row in range(n):
        user = part.take(np.array([min(row + 1, len(part) - 1)]))
        for place in draw.permutation(len(serve)).tolist():
            took, usages[place][row] = _timed(serve[place], user)
            # A language model that had the processor for seconds leaves cold caches, as no server's are.
            times[row, place] = 1000 * (took if took > _QUICK else _timed(serve[place], user)[0])
    return times, usages


def _timed(serve: Serve, user: EvalSet) -> tuple[float, Usage]:
    begin = time.perf_counter()
    usage = serve(user)
    return time.perf_counter() - begin, usage


def _server(cell: PlannedCell, results: Path, split: Split, device: str, scratch: Path) -> Serve:
    """What serves one user by the method of a cell."""
    if cell.spec.ranker is not None:
        return _ranker(cell, results, split, device, scratch)
    score = open_scorer(results, rundir.run_path(results, cell.cell), split, device)
    # A generative model reads and writes tokens as a language model does.
    count = getattr(getattr(score, "__self__", None), "tokens", None)

    def serve(user: EvalSet) -> Usage:
        score(user, slice(0, 1)).cpu()
        usage = Usage.zeros(1)
        if count is not None:
            usage.calls[0] = 1
            usage.prompt_tokens[0], usage.completion_tokens[0] = count(user, 0)
        return usage

    return serve


def _ranker(cell: PlannedCell, results: Path, split: Split, device: str, scratch: Path) -> Serve:
    """Retrieve, then ask the ranker of a cell."""
    assert cell.spec.ranker is not None
    address = cell.spec.ranker["retriever"]
    first = open_scorer(results, rundir.run_path(results, address), split, device)
    spec = candidates_spec(cell.spec).model_copy(update={"max_users": None, "oracle_candidates": False})
    nobody: dict[str, CandidateSets] = candidate_sets(
        results, address, candidates_spec(cell.spec), split, device
    )
    profiles = _profiles(results, cell, split)
    store = scratch / "calls.sqlite"
    ranker = open_ranker(results, cell.spec, split, nobody, profiles, device, store=store)
    ranker.restore(rundir.run_path(results, cell.cell))

    def serve(user: EvalSet) -> Usage:
        # An empty store for every request: the model is asked, as if nobody had been served before.
        for file in scratch.glob(f"{store.name}*"):
            file.unlink()
        sets = build_candidates(first, user, "test", spec, split.dataset.n_users, 1)
        return ranker.rank(sets).usage

    return serve


def _profiles(results: Path, cell: PlannedCell, split: Split) -> str | None:
    from recbole_kd.benchmark.inputs import USERS, build_inputs

    return build_inputs(results, cell.spec, split).get(USERS) if cell.spec.inputs else None
