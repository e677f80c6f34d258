"""Run a cell that re-ranks: candidates of its retriever's run, the ranker, ranks over the full catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_kd.baselines.llm.base import Context, Fitted, LLMRanker, Ranking
from recbole_kd.baselines.llm.candidates import (
    CandidateSets,
    ScoreRows,
    build_candidates,
    encode_sets,
    read_sets,
    reranked,
    sets_address,
    to_table,
)
from recbole_kd.baselines.llm.spec import CandidatesSpec, RankerSpec
from recbole_kd.benchmark import rooms, rundir
from recbole_kd.benchmark.artefacts import write_bytes_atomic
from recbole_kd.benchmark.derived import KEY, made_from, state_of
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.rankers import ranker_class
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.errors import StoreError
from recbole_kd.training.fit import FitResult, OnEpoch

if TYPE_CHECKING:
    import pyarrow as pa

    from recbole_kd.ranking import Ranks

STORE = "calls.sqlite"
_PARTS = ("valid", "test")
_FOUND = ("NDCG@10", "Recall@10", "MRR")
_PERCENTILES = (50, 95)


@dataclass(frozen=True)
class Reranked:
    """What the executor writes of a re-ranking cell.

    Attributes
    ----------
    result : FitResult
    ranks, parts : dict
        Part -> ranks, and the asked users of it.
    said : dict
        ``ranker`` in the manifest: candidates, usage, counts.
    writers : dict
        Further files of the run directory.
    """

    result: FitResult
    ranks: dict[str, Ranks]
    parts: dict[str, EvalSet]
    said: dict[str, Any]
    writers: dict[str, Callable[[], pa.Table]]


def store_file(results: Path) -> Path:
    """Where the answered calls of all rankers of a results folder lie."""
    return results / "cache" / "llm" / STORE


def candidates_spec(cell: CellSpec) -> CandidatesSpec:
    """The candidate protocol of a re-ranking cell."""
    assert cell.ranker is not None
    return CandidatesSpec.model_validate({"retriever": None, **cell.ranker["candidates"]})


def candidate_file(results: Path, retriever: str, spec: CandidatesSpec, split: Split) -> Path:
    """Where the candidate sets of a retriever's run lie."""
    return results / "cache" / "candidates" / f"{sets_address(retriever, spec, split)}.parquet"


def candidate_sets(
    results: Path, retriever: str, spec: CandidatesSpec, split: Split, device: str = "cpu"
) -> dict[str, CandidateSets]:
    """Candidate sets of the validation and the test part, made from the retriever's run unless they exist.

    Raises
    ------
    StoreError
        The retriever has no run yet, or it cannot be read.
    """
    path = candidate_file(results, retriever, spec, split)
    run = rundir.run_path(results, retriever)
    if not made_from(path, run):
        with wait_lock(results, f"candidates-{path.stem}"):
            if not made_from(path, run):
                write_bytes_atomic(path, _build(results, retriever, spec, split, device))
    return read_sets(path, split)


def _build(results: Path, retriever: str, spec: CandidatesSpec, split: Split, device: str) -> bytes:
    from recbole_kd.benchmark.retriever import check_against_run

    score, batch = _scorer(results, retriever, split, device)
    checked = check_against_run(rundir.run_path(results, retriever), split, score, batch)
    n = split.dataset.n_users
    parts = {name: build_candidates(score, getattr(split, name), name, spec, n, batch) for name in _PARTS}
    said = {"retriever": retriever, **spec.sets(), "split_digest": split.digest, "ranks_checked": checked}
    state = {KEY: state_of(rundir.run_path(results, retriever))}
    return encode_sets(parts, split.dataset, said, state)


def _scorer(results: Path, retriever: str, split: Split, device: str) -> tuple[ScoreRows, int]:
    from recbole_kd.benchmark.retriever import open_scorer
    from recbole_kd.serving.student import read_spec

    run = rundir.run_path(results, retriever)
    if not (run / rundir.MANIFEST).is_file():
        raise StoreError(f"{run}: the retriever has no run (did its cell fail?); run its cell first")
    return open_scorer(results, run, split, device), read_spec(run).student.train.eval_batch_size


def run_ranker(
    results: Path,
    cell: CellSpec,
    split: Split,
    profiles: str | None,
    device: str,
    on_epoch: OnEpoch | None = None,
) -> Reranked:
    """Run the ranker of a cell.

    Parameters
    ----------
    profiles : str or None
        Embedding file of the teacher whose texts stand in the prompts.
    """
    assert cell.ranker is not None
    sets = candidate_sets(results, cell.ranker["retriever"], candidates_spec(cell), split, device)
    ranker = open_ranker(results, cell, split, sets, profiles, device, on_epoch)
    fitted = ranker.fit()
    asked = [name for name in _PARTS if name in cell.ranker["candidates"]["parts"]]
    rankings = {name: _ranked(ranker, sets[name]) for name in asked}
    ranks = {name: reranked(sets[name], rankings[name].scores) for name in asked}
    tables: dict[str, Callable[[], pa.Table]] = {
        "candidates.parquet": partial(_candidates_table, split, sets, rankings),
        "usage.parquet": partial(_usage_table, split, sets, rankings),
    }
    said = {
        **cell.ranker["spec"],
        "retriever": cell.ranker["retriever"],
        "retriever_run": state_of(rundir.run_path(results, cell.ranker["retriever"])),
        "candidates": cell.ranker["candidates"],
        "parts": {name: _said(sets[name], rankings[name], ranks[name]) for name in asked},
    }
    result = _result(fitted, rankings)
    return Reranked(result, ranks, {name: sets[name].eval_set for name in asked}, said, tables)


def _ranked(ranker: LLMRanker, sets: CandidateSets) -> Ranking:
    ranking = ranker.rank(sets)
    return replace(ranking, counts={**ranking.counts, **ranker.measured(sets)})


def open_ranker(
    results: Path,
    cell: CellSpec,
    split: Split,
    sets: Mapping[str, CandidateSets],
    profiles: str | None,
    device: str,
    on_epoch: OnEpoch | None = None,
    store: Path | None = None,
) -> LLMRanker:
    """The ranker of a cell with everything that it may know.

    Parameters
    ----------
    store : Path, optional
        Another store of answered calls than that of the results folder.
    """
    from profiles.spec import WriterSpec

    assert cell.ranker is not None
    spec, retriever = RankerSpec.model_validate(cell.ranker["spec"]), cell.ranker["retriever"]
    candidates = candidates_spec(cell)

    def retrieve(part: EvalSet) -> CandidateSets:
        everybody = candidates.model_copy(update={"max_users": None})
        score, batch = _scorer(results, retriever, split, device)
        return build_candidates(score, part, "train", everybody, split.dataset.n_users, batch)

    context = Context(
        split=split,
        titles=_titles(cell, split),
        domain=cell.dataset.domain,
        llm=None if spec.llm is None else WriterSpec.model_validate(spec.llm),
        profiles={} if profiles is None else _profile_texts(results, Path(profiles), split),
        seed=cell.seed,
        device=device,
        max_len=cell.dataset.max_item_list_length,
        store=store or store_file(results),
        sets=lambda part: sets[part],
        retrieve=retrieve,
        progress=rooms.progress(f"ranker {spec.name}", "users"),
        on_epoch=on_epoch,
    )
    return ranker_class(spec.name)(spec.params, context)


def _titles(cell: CellSpec, split: Split) -> list[str]:
    from profiles.items import Catalogue
    from profiles.prompts import load_domain
    from recbole_kd.data.load import load_item_texts

    catalogue = Catalogue(load_item_texts(cell.dataset), load_domain(cell.dataset.domain))
    return ["", *(catalogue[str(token)].title for token in split.dataset.item_tokens[1:])]


def _profile_texts(results: Path, file: Path, split: Split) -> dict[int, str]:
    """Profile text of every user of an embedding file; the file passes the leakage guard first.

    Raises
    ------
    StoreError, LeakageError
    """
    from profiles.job import STORE as TEXTS
    from profiles.store import Store
    from recbole_kd.data.profile_table import load_profiles, read_embedding_file

    manifest = load_profiles(file, split, trust_unverified=False).manifest
    writer = manifest.get("writer") or {}
    if manifest.get("corruption"):
        raise StoreError(f"{file}: texts are corrupted while they are embedded; there are none to show")
    where = {name: writer[name] for name in ("model", "revision", "decoding", "prompt", "strategy")}
    with Store(rooms.profiles_folder(results) / TEXTS) as store:
        stored = store.profiles(dataset=manifest["dataset"], **where)
    written = {(p.user, p.profile, p.history_hash): p.text for p in stored}
    rows = read_embedding_file(file)[0]
    user_id = {str(token): i for i, token in enumerate(split.dataset.user_tokens)}
    found: dict[int, list[str]] = {}
    for user, profile, source, history in zip(
        rows.user, rows.profile, rows.source_user, rows.history_hash, strict=True
    ):
        text = written.get((str(source), int(profile), str(history)))
        if text is None:
            raise StoreError(
                f"{file}: the store beside it has no text for user '{source}'; delete the file and run again"
            )
        found.setdefault(user_id[str(user)], []).append(text)
    return {user: "\n".join(texts) for user, texts in found.items()}


def _said(sets: CandidateSets, ranking: Ranking, ranks: Ranks) -> dict[str, Any]:
    """What a manifest says about one part: who was asked, what the retriever missed, what it took.

    ``found`` are means over the users whose target the retriever found ("valid retrieval subset" of
    LlamaRec), before and after; the run's own metrics are of all asked users.
    """
    usage, n = ranking.usage, len(sets)
    missed = int((sets.target_places() < 0).sum())
    sums = {name: int(getattr(usage, name).sum()) for name in ("calls", "prompt_tokens", "completion_tokens")}
    usd = None if np.isnan(usage.usd).any() else float(usage.usd.sum())
    seconds = {f"p{p}": round(float(np.percentile(usage.seconds, p)), 4) for p in _PERCENTILES} if n else {}
    return {
        "users": n,
        "missed": missed,
        "candidates": int(sets.real.sum()),
        "found": {"retriever": _of_found(sets, sets.ranks), "re-ranked": _of_found(sets, ranks)},
        "unparsed": int(usage.unparsed.sum()),
        **sums,
        "seconds": round(float(usage.seconds.sum()), 3),
        "seconds_per_user": seconds,
        "usd": usd,
        **ranking.counts,
    }


def _of_found(sets: CandidateSets, ranks: Ranks) -> dict[str, float]:
    from recbole_kd.metrics import per_user

    found = ranks.rank[sets.target_places() >= 0]
    return {name: round(float(per_user(found, name).mean()), 6) for name in _FOUND} if len(found) else {}


def _result(fitted: Fitted, rankings: Mapping[str, Ranking]) -> FitResult:
    history = list(fitted.history) or [
        {"epoch": 1, "phase": "no training", "loss": float("nan"), "seconds": 0.0}
    ]
    ranking = float(sum(r.usage.seconds.sum() for r in rankings.values()))
    return FitResult(
        model=None,
        state_dict=dict(fitted.state),
        history=history,
        best_epoch=fitted.best_epoch,
        epochs=fitted.epochs,
        stopped_early=fitted.stopped_early,
        seconds={**fitted.seconds, "llm": round(ranking, 3)},
        n_parameters=fitted.n_parameters,
    )


def _candidates_table(
    split: Split, sets: Mapping[str, CandidateSets], rankings: Mapping[str, Ranking]
) -> pa.Table:
    import pyarrow as pa

    tables = [to_table(sets[name], split.dataset, ranking.scores) for name, ranking in rankings.items()]
    return pa.concat_tables(tables).unify_dictionaries()


def _usage_table(
    split: Split, sets: Mapping[str, CandidateSets], rankings: Mapping[str, Ranking]
) -> pa.Table:
    import pyarrow as pa

    tables = []
    for name, ranking in rankings.items():
        users = split.dataset.user_tokens[sets[name].users].astype(str)
        columns: dict[str, Any] = {"split": pa.array([name] * len(users)).dictionary_encode(), "user": users}
        columns |= vars(ranking.usage)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()
