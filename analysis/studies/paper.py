"""The study of the paper: published numbers beside ours. No statistic mixes the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field, ValidationError

from analysis import wording
from analysis.stats.effects import relative_gain
from analysis.studies.page import StudyPage
from analysis.studies.sentences import could_have_seen, effect
from analysis.summary import Summary, summarise
from analysis.table import Cell, Column, Table
from recbole_kd.errors import SpecError
from recbole_kd.metrics import standard_name
from recbole_kd.strict import Strict

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun


class PublishedRow(Strict):
    """One published comparison: means and standard deviations."""

    dataset: str
    beside: str | None = Field(description="our data set in the same row; null where it cannot be had")
    backbone: str
    metric: str
    base: tuple[float, float]
    method: tuple[float, float]


class Published(Strict):
    """Published numbers and where they are from."""

    source: str
    protocol: str
    rows: tuple[PublishedRow, ...]


def published(run: StudyRun) -> Published:
    """The section ``settings.published``.

    Raises
    ------
    SpecError
    """
    try:
        return Published.model_validate(run.settings.get("published"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"study.settings.published.{field}: {first['msg']}") from error


Ours = Mapping[tuple[str, str, str, str], Summary]


def ours(run: StudyRun) -> Ours:
    """(dataset, backbone, variant, metric) -> our means, of every part."""
    found = {}
    for part in run.parts:
        for (method, metric), summary in summarise(part.results).items():
            found[(*method, metric)] = summary
    return found


def _with_sd(mean: float, sd: float) -> str:
    return wording.number(mean) if sd != sd else f"{wording.number(mean)} \u00b1 {wording.number(sd)}"


def _variants(run: StudyRun) -> list[str]:
    names = {v: None for part in run.parts for _, _, v in part.results.methods()}
    return [v for v in names if v != run.baseline]


def published_table(run: StudyRun) -> Table:
    """A row per published comparison, ours beside it where the data can be had; then what only we ran."""
    given, mine = published(run), ours(run)
    variants = _variants(run)
    rows: list[tuple[Cell, ...]] = []
    frame: list[dict[str, Any]] = []
    shown = set()
    for row in given.rows:
        metric = standard_name(row.metric)
        shown.add((row.beside, row.backbone, metric))
        head = [Cell(row.dataset), Cell(row.backbone), Cell(metric)]
        gain = relative_gain(row.method[0], row.base[0])
        theirs = [
            Cell(_with_sd(*row.base)),
            Cell(_with_sd(*row.method)),
            Cell(wording.percent(gain)),
        ]
        rows.append(
            (*head, *theirs, *_own(mine, run, row.beside, row.backbone, metric, variants, frame, gain))
        )
    only = dict.fromkeys((d, b, m) for d, b, _, m in mine if (d, b, m) not in shown)
    first_own = len(rows)
    for dataset, backbone, metric in only:
        head = [Cell("\u2013"), Cell(backbone), Cell(metric), *[Cell("\u2013")] * 3]
        own = _own(mine, run, dataset, backbone, metric, variants, frame, float("nan"))
        rows.append((*head, *own))
    return Table(
        name="published",
        title="Published and measured",
        caption=(
            f"Published: {given.source}; {given.protocol}. Ours: protocol box above, other data, splits, "
            "profiles and selection, so a row's two halves are not to be compared in size and enter no test "
            "together. Gains in per cent of the baseline; tests of ours: table 'gains'."
        ),
        columns=(
            Column("Published on", "l"),
            Column("Backbone", "l"),
            Column("Metric", "l"),
            Column("base"),
            Column("+ LLM"),
            Column("gain"),
            Column("Ours on", "l"),
            Column(run.baseline),
            *(Column(name) for v in variants for name in (v, f"gain of {v}")),
        ),
        rows=tuple(rows),
        groups=(0, first_own),
        frame=pd.DataFrame(frame),
    )


def _own(
    mine: Ours,
    run: StudyRun,
    dataset: str | None,
    backbone: str,
    metric: str,
    variants: list[str],
    frame: list[dict[str, Any]],
    published_gain: float,
) -> list[Cell]:
    """Our half of a row; its numbers go to the frame."""
    base = mine.get((dataset or "", backbone, run.baseline, metric))
    if base is None or not base.means:
        return [
            Cell(text) for text in ("cannot be had" if dataset is None else f"{dataset}: not run", "\u2013")
        ] + [Cell("\u2013")] * (2 * len(variants))
    cells = [Cell(str(dataset)), Cell(_with_sd(base.mean, base.sd), sort=base.mean)]
    for variant in variants:
        found = mine.get((str(dataset), backbone, variant, metric))
        if found is None or not found.means:
            cells += [Cell("\u2013"), Cell("\u2013")]
            continue
        gain = relative_gain(found.mean, base.mean)
        cells += [
            Cell(_with_sd(found.mean, found.sd), sort=found.mean),
            Cell(wording.percent(gain), sort=gain),
        ]
        frame.append(
            {
                "dataset": dataset,
                "backbone": backbone,
                "metric": metric,
                "variant": variant,
                "seeds": len(found.means),
            }
            | {"base": base.mean, "mean": found.mean, "gain": gain, "published_gain": published_gain}
        )
    return cells


def side_by_side(run: StudyRun) -> str:
    """How many published and how many of our own gains are upwards; the placebo is no method."""
    rows = published(run).rows
    up = sum(row.method[0] > row.base[0] for row in rows)
    kinds = len({(row.dataset, row.backbone) for row in rows})
    placebo = run.settings.get("placebo")
    made = [g for g in run.gains if g.result is not None and g.comparison.variant != placebo]
    mine = sum(g.result.estimate > 0 for g in made if g.result)
    ours = "1 comparison" if len(made) == 1 else f"{len(made)} comparisons"
    return (
        f"The paper reports {up} of {len(rows)} means above the baseline ({kinds} pairs of data and "
        f"backbone); of our {ours} on {run.metric}, without the placebo, {mine} "
        f"{'is' if mine == 1 else 'are'} above it, under another protocol, so the two are not tested "
        "together."
    )


def answer(run: StudyRun) -> list[str]:
    """Effect, the published side, what could have been seen."""
    return [effect(run), side_by_side(run), could_have_seen(run)]


PAGE = StudyPage(answer=answer, tables={"published": published_table})
