"""Run every part of a study, make what is derived from the runs, write the page."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.console import Reporter
from recbole_kd.benchmark.placement import Where
from recbole_kd.benchmark.study.load import Study, show_place
from recbole_kd.benchmark.study.steps import run_after
from recbole_kd.errors import StoreError

PAGES = Path("docs") / "results"


def run_parts(study: Study, results: Path, where: Where, reporter: Reporter) -> int:
    """Run the missing cells of every part; return the number of those that failed.

    Raises
    ------
    UserError
        Bad input, or the disk is full.
    """
    from recbole_kd.benchmark.artefacts import builders
    from recbole_kd.benchmark.placement import make_engine
    from recbole_kd.benchmark.sweep import run_sweep

    study.write_record(results)
    failed = 0
    build, beside = builders(in_process=where.workers == 0)
    for part in study.parts:
        engine, device = make_engine(where)
        done = run_sweep(
            part.experiment, results, engine, reporter, device=device, build=build, build_beside=beside
        )
        if done.unwritten is not None:
            raise StoreError(done.unwritten)
        failed += len(done.failures)
        run_after(study.spec.after, results / part.experiment.name, show_place(part.x))
    return failed


def missing(study: Study, results: Path) -> int:
    """Planned runs that do not exist yet; a variant whose weights do not exist counts once."""
    lacking = [c for c in study.cells() if not (rundir.run_path(results, c) / rundir.MANIFEST).is_file()]
    return len(lacking) + len(study.pending)


def page_path(study: Study, results: Path, given: Path | None) -> Path:
    """Where the page goes: ``docs/results`` only when the study was run in full."""
    if given is not None:
        return given
    whole = not study.smoke and study.only is None and missing(study, results) == 0
    return (PAGES if whole else results / study.folder) / f"{study.name}.md"


def write_page(study: Study, results: Path, path: Path) -> list[Path]:
    """Write the page and its figures from the produced files alone.

    The runs are those that the YAML asks for today: if it was changed since they ran, they are missing.
    """
    from analysis.studies import write_study_page
    from recbole_kd.benchmark import record

    for part in study.parts:
        record.write(results, part.experiment, {})
    return write_study_page(study.write_record(results), path)
