"""Every method on the same candidates, beside its full ranking."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import wording
from analysis.candidates import candidate_frame, protocol_words, read_candidates
from analysis.load import Results
from analysis.table import Cell, Column, Table
from recbole_kd.errors import SpecError

_KINDS = {"full": "full", "all": "all users", "retrieved": "retrieved"}


def candidates_table(results: Results, *, digits: int = 4) -> Table:
    """Candidate metrics beside full-ranking ones for every method of a sweep with ``candidates``.

    Raises
    ------
    SpecError
        The experiment names no retriever, or nothing has run.
    """
    ranks = read_candidates(results)
    if ranks is None:
        raise SpecError(
            f"{results.directory}: no candidates here; name a retriever under 'candidates' and run it"
        )
    frame, metric = candidate_frame(results, ranks), results.metrics[0]
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    group = None
    for row in frame.to_dict("records"):
        if row["dataset"] != group:
            groups.append(len(rows))
            group = row["dataset"]
        cells = [Cell(str(row[name])) for name in ("dataset", "backbone", "variant")]
        cells += [Cell(f"{row['users']:,}", sort=row["users"])]
        cells += [Cell(wording.number(row["missed"], 1), sort=row["missed"])]
        for kind in _KINDS:
            value, half = row[f"{metric}_{kind}"], row[f"{metric}_{kind}_half"]
            text = wording.number(value, digits)
            cells.append(
                Cell(text if half != half else f"{text} \u00b1 {wording.number(half, digits)}", sort=value)
            )
        rows.append(tuple(cells))
    sampled = ranks.protocol.get("max_users")
    cost = " A sample of users was asked: the interval is what that costs." if sampled is not None else ""
    return Table(
        name="candidates",
        title=f"{results.experiment}: the same candidates for every method",
        caption=(
            f"{metric} \u00b1 half of its 95 % interval over users (t, seed-averaged; none where all are "
            f"alike), test part, the users that rankers were asked for.{cost} Candidates: "
            f"{protocol_words(ranks.protocol)}. Full: the method's own ranks. All users: the method orders "
            "the candidates, a target that the retriever missed keeps the retriever's rank. Retrieved: rank "
            "among the candidates, users whose target is one. Missed: users whose target is none, mean over "
            "seeds. Ceiling: every retrieved target first."
        ),
        columns=(
            *(Column(name, "l") for name in ("Dataset", "Backbone", "Variant")),
            Column("Users"),
            Column("Missed"),
            *(Column(f"{metric}, {name} \u2191") for name in _KINDS.values()),
        ),
        rows=tuple(rows),
        groups=tuple(groups),
        notes=tuple(_asides(results)),
        frame=frame,
    )


def _asides(results: Results) -> Iterator[str]:
    """What rankers say of themselves beside their ranks: answers of no use, TALLRec's published measure."""
    for method in results.methods():
        said = [
            ((results.manifests[cell].get("ranker") or {}).get("parts") or {}).get(results.split) or {}
            for cell in results.cells(*method).values()
        ]
        name = " ".join(method)
        written = [part for part in said if "answers_unusable" in part]
        if written:
            asked, useless, left = (
                sum(part[key] for part in written) for key in ("messages", "answers_unusable", "unparsed")
            )
            yield (
                f"{name}: {asked} answers; {useless} times one placed nothing, {left} times it left "
                "a candidate in the retriever's order"
            )
        known = [part["auc"] for part in said if part.get("auc") is not None]
        if known:
            mean = wording.number(sum(known) / len(known), 3)
            yield f"{name}: AUC {mean} on the asked users' targets (TALLRec's published measure)"
