"""What the commands ``corrupt``, ``audit`` and ``refresh`` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.audit import Auditor, summarise
from profiles.audit import audit as score
from profiles.console import bars, out, table, wrote
from profiles.history import train_histories
from profiles.job import STORE, ProfileJob
from profiles.progress import Progress
from profiles.spec import CorruptionSpec, RefreshSpec, TeacherSpec
from profiles.store import Profile, Store
from profiles.write import Author
from profiles.yamlfile import validated
from recbole_kd.errors import SpecError


def corrupt(
    dataset: str,
    profile: str,
    kind: str,
    rates: Sequence[float],
    seed: int,
    strength: float | None,
    folder: Path,
    changes: Sequence[str],
    users: int | None,
    score_only: bool,
    quiet: bool,
) -> None:
    """Build one embedding file per rate, unless only scores are asked for; show one text at every rate."""
    from profiles.build import build_teacher, write_texts
    from profiles.corrupt import CORRUPTIONS, corrupt_texts
    from profiles.corrupt.needs import check_items

    job = ProfileJob.of(dataset, profile, folder, changes)
    level = CORRUPTIONS[kind].level
    if not score_only and users is not None:
        raise SpecError("--users: an embedding file holds all users; add --score-only, or leave --users out")
    if score_only and level != "text":
        raise SpecError(f"--score-only: {kind} damages vectors, there is no text to score; leave it out")
    specs: dict[float, TeacherSpec] = {}
    for rate in sorted(set(rates)):
        given = {"kind": kind, "rate": rate, "seed": seed, "strength": strength}
        damage = validated(CorruptionSpec, given, "corruption")
        specs[rate] = job.spec.model_copy(update={"corruption": (*job.spec.corruption, damage)})
        check_items(specs[rate], job.split, job.texts, job.domain)
    with Store(folder / STORE) as store, bars(quiet) as begin:
        outcome = write_texts(
            job.spec,
            job.split,
            job.texts,
            store,
            domain=job.domain,
            progress=begin(f"profiles {profile}"),
            users=users,
            author=job.author,
            prepare=begin("prompts made"),
        )
    auditor = _auditor(job.author, job)
    rows: list[dict[str, Any]] = []
    paths: list[Path] = []
    for rate, spec in specs.items():
        with bars(quiet) as begin:
            if level == "text":
                damaged = begin(f"rate {rate:g}: texts damaged")
                texts = corrupt_texts(spec, job.split, outcome.profiles, job.texts, job.domain, damaged)
                rows.append(_dose(auditor, outcome.profiles, texts, rate, begin(f"rate {rate:g}: audited")))
                out.print(f"user {outcome.profiles[0].user}, rate {rate:g}: {texts[0]}", markup=False)
            if score_only:
                continue
            told = begin(f"rate {rate:g}: encoded")
            paths.append(
                build_teacher(spec, job.split, job.texts, folder, domain=job.domain, encode_progress=told)
            )
    if rows:
        table(rows)
    for path in paths or [folder / STORE]:
        wrote(path)


def _dose(
    auditor: Auditor, profiles: Sequence[Profile], texts: Sequence[str], rate: float, told: Progress | None
) -> dict[str, Any]:
    means = score(auditor, profiles, texts, told)[["precision", "coverage", "grounding"]].mean()
    changed = sum(a != b.text for a, b in zip(texts, profiles, strict=True)) / len(texts)
    return {"rate": rate, "texts_changed": changed} | {str(k): float(v) for k, v in means.items()}


def audit(
    dataset: str,
    names: Sequence[str],
    folder: Path,
    changes: Sequence[str],
    users: int | None,
    to: Path | None,
    quiet: bool,
) -> None:
    """Score the profiles of several writers."""
    import pandas as pd

    from profiles.build import write_texts

    parts, auditor = [], None
    for name in names:
        job = ProfileJob.of(dataset, name, folder, changes)
        with Store(folder / STORE) as store, bars(quiet) as begin:
            outcome = write_texts(
                job.spec,
                job.split,
                job.texts,
                store,
                domain=job.domain,
                progress=begin(f"profiles {name}"),
                users=users,
                author=job.author,
                prepare=begin("prompts made"),
            )
        if outcome.failed:
            out.print(f"{name}: {len(outcome.failed)} users without a profile are left out")
        # Judged by the whole train part, also where the writer saw less of it.
        auditor = auditor or _auditor(job.author, job)
        with bars(quiet) as begin:
            told = begin(f"profiles {name} audited")
            parts.append(score(auditor, outcome.profiles, progress=told).assign(teacher=name))
    scores = pd.concat(parts, ignore_index=True)
    to = to or folder / f"audit-{dataset}-{'-'.join(names)}.parquet"
    _write_frame(scores, to)
    table(summarise(scores).to_dict("records"), "share of claims that the history supports, by writer")
    wrote(to)


def _auditor(author: Author, job: ProfileJob) -> Auditor:
    return Auditor(author.statistician, train_histories(job.split))


def _write_frame(frame: Any, path: Path) -> None:
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    frame.to_parquet(part, index=False)
    os.replace(part, path)


@dataclass(frozen=True)
class RefreshOptions:
    """Parameters of the policies; each uses its own."""

    n: int
    share: float
    checkpoints: int
    threshold: float
    start: float


def refresh(
    dataset: str,
    profile: str,
    policies: Sequence[str],
    options: RefreshOptions,
    folder: Path,
    changes: Sequence[str],
    to: Path | None,
) -> None:
    """Play policies and print what each does and costs."""
    import pandas as pd

    from profiles.build import refresh_log
    from profiles.history import AsOf
    from profiles.prices import price_function

    job = ProfileJob.of(dataset, profile, folder, changes)
    whole = train_histories(job.split)
    begun = train_histories(job.split, AsOf(kind="fraction", value=options.start))
    start = {h.user: h.last for h in begun} if options.start > 0 else {}
    tokens, answer = _mean_tokens(job)
    price = price_function(job.author.backend.model)
    rows, events = [], []
    for name in policies:
        spec = RefreshSpec(
            policy=name,
            n=options.n if name == "every-n" else None,
            share=options.share if name == "most-active" else None,
            checkpoints=options.checkpoints if name == "most-active" else None,
            threshold=options.threshold if name == "drift" else None,
        )
        log = refresh_log(job.spec, spec, whole, start, job.texts, job.domain)
        cost = log.cost(tokens, answer, price)
        rows.append(
            {
                "policy": name,
                "profiles_written": log.calls,
                "users_re-profiled": log.refreshed_users,
                "mean_unseen_interactions": log.staleness,
                **cost,
            }
        )
        events += [
            {"policy": name, "user": h.user, "history_last": n, "time": h.times[n - 1]}
            for h in whole
            for n in log.writings.get(h.user, [])
        ]
    to = to or folder / f"refresh-{dataset}-{'-'.join(policies)}.parquet"
    _write_frame(pd.DataFrame(events), to)
    table(
        rows, f"refresh policies on {job.split.dataset.name}, beginning at {options.start:g} of each history"
    )
    wrote(to)


def _mean_tokens(job: ProfileJob) -> tuple[float, float]:
    """Prompt and answer tokens per profile: of the store where it has some, else as planned."""
    from profiles.plan import plan_profiles

    with job.store() as store:
        w = job.author.writer
        found: list[Profile] = store.profiles(
            model=w.model, revision=w.revision, decoding=w.decoding, prompt=w.prompt
        )
        if found:
            n = len(found)
            return sum(p.prompt_tokens for p in found) / n, sum(p.completion_tokens for p in found) / n
        planned = plan_profiles(job.author, job.histories, store, sample=100)
    n = max(planned.users, 1)
    return planned.prompt_tokens / n, planned.likely_completion_tokens / n
