"""Assembling the report: every number comes from `analysis`, the template only shows it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis import wording
from analysis.all_tests import evidence
from analysis.candidates import FILE as CANDIDATES
from analysis.cold_start import extra_slices
from analysis.comparison import compare
from analysis.figures import figure_bytes, forest_plot, gain_by_slice_plot
from analysis.figures.every import overview, per_backbone, spaces
from analysis.figures.tuning import tuning_plot
from analysis.files import write_atomic
from analysis.load import Results, load_results, shared_protocol
from analysis.report.extras import read_list, tuning_frame, tuning_table, user_view
from analysis.slices import compare_slices
from analysis.table import Table
from analysis.tables import (
    candidates_table,
    cost_table,
    evidence_table,
    main_table,
    power_table,
    protocol_table,
    slice_table,
)


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader who does not see it is told."""

    title: str
    alt: str
    figure: Figure

    @property
    def uri(self) -> str:
        """PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(figure_bytes(self.figure, "png")).decode("ascii")


def _text(name: str) -> str:
    return resources.files("analysis.report").joinpath(name).read_text(encoding="utf-8")


def _plain(value: Any) -> str:
    """A value of a manifest without brackets; whole numbers with thousands."""
    if isinstance(value, dict):
        return ", ".join(f"{str(k).replace('_', ' ')}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _protocol(results: Results) -> list[dict[str, Any]]:
    """Per dataset: what every number on the page rests on."""
    boxes = []
    for dataset, panel in results.panels.items():
        manifest = results.manifests[panel.cells[0]]
        entries: list[tuple[str, str]] = [("users evaluated", f"{panel.n_users:,}")]
        stated = {**shared_protocol(manifest), "split_digest": manifest.get("split_digest")}
        stated.setdefault("dataset_digest", manifest.get("dataset_digest"))
        entries += [(str(k).replace("_", " "), _plain(v)) for k, v in stated.items() if v not in (None, {})]
        counts = (manifest.get("counts") or {}).items()
        entries += [(f"count: {k}".replace("_", " "), _plain(v)) for k, v in counts if v]
        versions = manifest.get("versions") or {}
        if isinstance(versions, dict):
            entries.append(("versions", ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))))
        code = manifest.get("code", "unknown")
        parts = code if isinstance(code, dict) else {"code": code}
        entries += [(f"code {k}" if k != "code" else k, str(v)) for k, v in sorted(parts.items())]
        boxes.append({"dataset": dataset, "entries": entries})
    return boxes


_EXTRA = {"last-k": "Gain in the simulated cold start", "grounding": "Gain by grounding of the profile"}


def _tables(results: Results) -> tuple[list[Table], list[Picture]]:
    """Tables, and the figures that share their computation."""
    primary = compare(results)
    tables = [main_table(results, comparisons=primary), protocol_table(results)]
    pictures = []
    if any(c.result for c in primary):
        title = f"Paired gains on {primary[0].metric}"
        pictures.append(
            Picture(
                title, "Forest plot; the numbers are those of the main table", forest_plot(results, primary)
            )
        )
        frame = evidence(results)
        tables += [evidence_table(results, frame), power_table(results, frame)]
        for by in ("history", "popularity"):
            found = compare_slices(results, by)
            if any(len(s.slices) > 1 for s in found):
                tables.append(slice_table(results, by, found=found))
                if by == "history":
                    figure = gain_by_slice_plot(results, by, found=found)
                    pictures.append(
                        Picture("Gain by train history", "Gains per slice, as in the slice table", figure)
                    )
        for kind, found in extra_slices(results):
            tables.append(slice_table(results, kind, found=found))
            figure = gain_by_slice_plot(results, found=found)
            pictures.append(Picture(_EXTRA[kind], "Gains per slice, as in the slice table", figure))
    tables.append(cost_table(results))
    if (results.directory / CANDIDATES).is_file():
        tables.insert(1, candidates_table(results))
    # The page lists all reservations above; a table repeats only those of its own.
    own = [replace(t, notes=tuple(n for n in t.notes if n not in results.problems)) for t in tables]
    return own, pictures


def _pictures(results: Results) -> list[Picture]:
    alt = {"cost": "Numbers as in the cost table", "critical-difference": "Average ranks of methods"}
    shown = [
        Picture(title, alt.get(name, "Curves; see the title"), figure)
        for source in (per_backbone(results), overview(results))
        for name, title, figure in source
    ]
    points = "One point per user, the same users in every panel; the axes of a UMAP have no unit"
    return shown + [Picture(title, points, figure) for _, title, figure in spaces(results)]


def _runs(results: Results) -> list[dict[str, Any]]:
    rows = []
    for row in results.runs.itertuples():
        manifest = results.manifests.get(row.cell)
        rows.append(
            {
                "label": f"{row.dataset} {row.backbone} {row.variant} seed {row.seed}",
                "status": row.status,
                "reason": row.reason,
                "manifest": json.dumps(manifest, indent=1, sort_keys=True) if manifest else "",
            }
        )
    return rows


def _failures(results: Results) -> list[dict[str, str]]:
    listed = []
    for failure in results.failures:
        labels = [str(failure[k]) for k in ("dataset", "backbone", "variant", "seed") if k in failure]
        text = next(
            (str(failure[k]) for k in ("traceback", "error", "reason", "message") if failure.get(k)), ""
        )
        listed.append({"label": " ".join(labels) or str(failure.get("cell", "cell")), "text": text})
    return listed


def _heading(table: Table, results: Results) -> str:
    named = {"main": "Main table", "protocol": "Protocol table"}
    text = named.get(table.name) or table.title.removeprefix(f"{results.experiment}: ")
    return text[:1].upper() + text[1:]


def build_report(results: Results) -> str:
    """HTML of one self-contained page: no request leaves it, no text in it is markup.

    Parameters
    ----------
    results : Results

    Returns
    -------
    str

    Raises
    ------
    StoreError
        ``tuning.json`` or ``users.json`` beside the experiment is malformed.
    """
    import jinja2

    studies = read_list(results.directory / "tuning.json")
    users = [user_view(u) for u in read_list(results.directory / "users.json")]
    tables, pictures = _tables(results)
    pictures += _pictures(results)
    if studies:
        tables.append(tuning_table(studies))
        figure = tuning_plot(tuning_frame(studies))
        pictures.append(
            Picture("Tuning", "Best validation value against trials, as in the tuning table", figure)
        )
    script = _text("page.js")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_text("page.html.j2")).render(
        title=results.experiment,
        style=_text("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        done=len(results.done),
        planned=len(results.runs),
        baseline=results.baseline,
        ranking=wording.protocol(results),
        boxes=_protocol(results),
        problems=results.problems,
        failures=_failures(results),
        tables=[{"name": t.name, "title": _heading(t, results), "html": t.to_html()} for t in tables],
        pictures=pictures,
        users=users,
        runs=_runs(results),
    )


def write_report(experiment_dir: str | Path, *, masked: bool = False) -> Path:
    """Write ``report.html`` beside ``experiment.json``.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
    """
    results = load_results(experiment_dir, masked=masked)
    return write_atomic(results.directory / "report.html", build_report(results))
