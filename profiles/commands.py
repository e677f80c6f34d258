"""What the commands ``build`` to ``import-batch`` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from profiles.console import bars, duration, out, read_only, said, table, wrote
from profiles.history import LeakageGuard
from profiles.job import STORE, Budget, ProfileJob, refuse_over_budget
from profiles.plan import SCALES, Plan, plan_profiles
from profiles.prices import PriceTable, load_prices, price_function
from profiles.progress import Progress, tracked
from profiles.store import Profile, Store
from profiles.write import Outcome
from recbole_kd.errors import LeakageError, StoreError


def _existing(folder: Path) -> Store:
    """The store of a command that only reads: a misspelt folder must not become an empty store.

    Raises
    ------
    StoreError
        There is none.
    """
    if not (folder / STORE).is_file():
        raise StoreError(f"{folder / STORE}: no such store; name its folder with --folder")
    return Store(folder / STORE)


def _table_of(prices: Path | None) -> PriceTable:
    return load_prices(prices) if prices else load_prices()


def build(
    dataset: str,
    profile: str,
    folder: Path,
    changes: Sequence[str],
    users: int | None,
    budget: float | None,
    prices: Path | None,
    anew: bool,
    quiet: bool,
) -> None:
    """Write texts, then the embedding file (when all users are asked for)."""
    from profiles.build import build_teacher, write_texts
    from profiles.transfer import holds_shipped

    job = ProfileJob.of(dataset, profile, folder, changes)
    _note(job)
    price_table = _table_of(prices)
    spec, price = job.spec, price_function(job.author.backend.model, table=price_table)
    with Store(folder / STORE) as store:
        if anew and holds_shipped(store, job.split.dataset.name, job.author.writer):
            raise StoreError(
                f"{folder / STORE}: holds the texts that ship with the code, so none would be written anew; "
                "give another --folder"
            )
        if budget is not None:
            histories = job.histories[:users]
            estimate = plan_profiles(job.author, histories, store, price_table)
            refuse_over_budget(estimate.usd, budget, free=spec.writer.backend in ("template", "local"))
        with bars(quiet) as begin:
            meter = Budget(budget, price, begin(f"profiles {spec.name}"))
            outcome = write_texts(
                spec,
                job.split,
                job.texts,
                store,
                domain=job.domain,
                progress=meter,
                users=users,
                author=job.author,
                price=meter.price,
                shipped=not anew,
                prepare=begin("prompts made"),
            )
    _report(outcome, folder / STORE)
    if outcome.failed:
        _stop(outcome)
    if users is None:
        with bars(quiet) as begin:
            tell = begin("texts encoded")
            path = build_teacher(spec, job.split, job.texts, folder, domain=job.domain, encode_progress=tell)
        wrote(path)


def _note(job: ProfileJob) -> None:
    if (remark := job.remark()) is not None:
        out.print(f"note: {remark}", markup=False)


def _report(outcome: Outcome, store: Path) -> None:
    usd = sum(p.price or 0.0 for p in outcome.profiles)
    seconds = sum(p.seconds for p in outcome.profiles)
    out.print(
        f"{len(outcome.profiles)} profiles: {outcome.answered} calls made, {outcome.reused} found in the "
        f"store, {seconds:.0f} s of writing in all" + (f", {usd:.4f} USD" if usd else "")
    )
    wrote(store)


def _stop(outcome: Outcome) -> None:
    reasons: dict[str, int] = {}
    for reason in outcome.failed.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    listed = "; ".join(f"{n} x {reason}" for reason, n in sorted(reasons.items(), key=lambda r: -r[1]))
    user = next(iter(outcome.failed))
    raise StoreError(
        f"{len(outcome.failed)} users have no profile, user '{user}' the first ({listed}); what was "
        "written is stored, run the same command again"
    )


def encode(
    dataset: str, profile: str, folder: Path, changes: Sequence[str], to: Path | None, quiet: bool
) -> None:
    """Encode stored texts."""
    from profiles.build import build_teacher

    job = ProfileJob.of(dataset, profile, folder, changes)
    with job.store() as store:
        count = plan_profiles(job.author, job.histories, store, sample=len(job.histories))
    if count.calls:
        raise StoreError(
            f"{folder / STORE}: {count.users - count.stored} of {count.users} users have no text by this "
            f"writer; run 'run_benchmark.py profiles build {dataset} {profile}' first"
        )
    with bars(quiet) as begin:
        tell = begin("texts encoded")
        path = build_teacher(job.spec, job.split, job.texts, folder, domain=job.domain, encode_progress=tell)
    if to is not None:
        import os
        import shutil

        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.part")
        shutil.copyfile(path, part)
        os.replace(part, to)
    wrote(to or path)


def plan(
    dataset: str,
    profile: str,
    folder: Path,
    changes: Sequence[str],
    prices: Path | None,
    sample: int,
    as_json: bool,
) -> None:
    """Print what a job takes."""
    job = ProfileJob.of(dataset, profile, folder, changes)
    with job.store() as store:
        found = plan_profiles(job.author, job.histories, store, _table_of(prices), sample)
    scaled = [found.scaled(users) for users in SCALES]
    if as_json:
        remark = job.remark()
        more = {"scaled": scaled, "remarks": [] if remark is None else [remark]}
        out.print(json.dumps(asdict(found) | more))
        return
    _note(job)
    out.print(f"{job.split.dataset.name}, profile {job.spec.name}: model {job.author.backend.model}")
    out.print(
        f"{found.users} users, {found.stored} already stored; tokens of {found.counted} users counted "
        + ("by the model's tokenizer" if found.exact else "at four characters each")
    )
    table([_here(found), *(_scale_row(row) for row in scaled)])
    if job.author.prompt.needs_llm:
        price = "no price known" if found.usd is None else f"prices of {found.prices_dated}"
        rate = "rate measured in the store" if found.seconds is not None else "no rate measured yet"
        upper = f", upper bound {found.usd:,.2f} USD" if found.usd is not None else ""
        out.print(
            f"{price}; {rate}; answers of likely length{upper}. Larger rows: users like these, none stored."
        )
    read_only(folder / STORE)


def _here(found: Plan) -> dict[str, Any]:
    row = found.scaled(max(found.users - found.stored, 0))
    return {**_scale_row(row), "users": "here"}


def _scale_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "users": f"{row['users']:.0e}".replace("e+0", "e"),
        "calls": said(float(row["calls"])),
        "prompt_tokens": said(float(row["prompt_tokens"])),
        "answer_tokens": said(float(row["completion_tokens"])),
        "USD": "-" if row["usd"] is None else f"{row['usd']:,.2f}",
        "USD_by_batch_file": "-" if row["batch_usd"] is None else f"{row['batch_usd']:,.2f}",
        "time": duration(row["seconds"]),
    }


def show(user: str, folder: Path, dataset: str | None) -> None:
    """Print a user's profiles."""
    where: dict[str, Any] = {"user": user} | ({"dataset": dataset} if dataset else {})
    with _existing(folder) as store:
        found = store.profiles(**where)
    if not found:
        raise StoreError(
            f"{folder / STORE}: no profile of user '{user}'; see 'run_benchmark.py profiles stats'"
        )
    for p in found:
        out.print(
            f"{p.dataset}, user {p.user}, profile {p.profile}: {p.model} ({p.revision}), {p.prompt}",
            markup=False,
            style="bold",
        )
        out.print(
            f"  from {p.history_last} interactions (hash {p.history_hash}), {p.strategy}; {p.calls} calls, "
            f"{p.prompt_tokens} + {p.completion_tokens} tokens, {p.seconds:.1f} s, ended by {p.finish_reason}"
        )
        out.print(p.text, markup=False)
    read_only(folder / STORE)


def stats(folder: Path, as_json: bool) -> None:
    """Print the store's contents."""
    with _existing(folder) as store:
        rows = store.summary()
    if as_json:
        out.print(json.dumps(rows))
        return
    table(rows, f"{folder / STORE}")
    read_only(folder / STORE)


def verify(dataset: str, folder: Path, quiet: bool) -> None:
    """Check soundness and leakage."""
    job = ProfileJob.of(dataset, "template", folder)
    guard = LeakageGuard(job.split)
    with _existing(folder) as store, bars(quiet) as begin:
        problems = store.check()
        found = store.profiles(dataset=job.split.dataset.name, progress=begin("profiles read"))
        checked = tracked(found, begin("histories checked"), len(found))
        problems += [problem for p in checked if (problem := _leak(guard, p))]
    for problem in problems[:20]:
        out.print(problem, markup=False)
    if problems:
        raise LeakageError(
            f"{folder / STORE}: {len(problems)} problems, the first: {problems[0]}; export the sound "
            "profiles or start a new store"
        )
    out.print(
        f"{folder / STORE}: {len(found)} profiles of {dataset} are sound and saw train interactions only"
    )
    read_only(folder / STORE)


def _leak(guard: LeakageGuard, p: Profile) -> str:
    from recbole_kd.data.history import history_hash

    train = guard.train_items(p.user)
    where = f"dataset {p.dataset}, user '{p.user}', profile {p.profile}"
    if p.history_last > len(train):
        return f"{where}: saw {p.history_last} interactions, the train part has {len(train)}"
    if history_hash(train[: p.history_last]) != p.history_hash:
        return f"{where}: not written from the first {p.history_last} train interactions"
    return ""


def export(
    to: Path, folder: Path, dataset: str | None, model: str | None, prompt: str | None, quiet: bool
) -> None:
    """Write profiles to parquet."""
    from profiles.transfer import export_profiles

    given = {"dataset": dataset, "model": model, "prompt": prompt}
    where: dict[str, Any] = {name: value for name, value in given.items() if value}
    with _existing(folder) as store, bars(quiet) as begin:
        found = store.profiles(progress=begin("profiles read"), **where)
        number = export_profiles(found, to, {}, begin("profiles written"))
    out.print(f"{number} profiles")
    wrote(to)


def import_(file: Path, folder: Path, quiet: bool) -> None:
    """Read profiles from parquet."""
    from profiles.transfer import import_profiles, read_profiles

    with bars(quiet) as begin:
        profiles, _ = read_profiles(file, begin("profiles read"))
        with Store(folder / STORE) as store:
            new = import_profiles(store, profiles, begin("rows stored"))
    out.print(f"{len(profiles)} profiles read, {new} new")
    wrote(folder / STORE)


def _batch_job(dataset: str, profile: str, folder: Path, changes: Sequence[str]) -> ProfileJob:
    return ProfileJob.of(dataset, profile, folder, [*changes, "writer.backend=batch-file"])


def _pending(
    job: ProfileJob, store: Store, users: int | None, progress: Progress | None
) -> tuple[Outcome, list[Any]]:
    from profiles.build import write_texts

    backend: Any = job.author.backend
    backend.pending = []
    outcome = write_texts(
        job.spec,
        job.split,
        job.texts,
        store,
        domain=job.domain,
        users=users,
        author=job.author,
        prepare=progress,
    )
    return outcome, backend.pending


def export_batch(
    dataset: str,
    profile: str,
    to: Path,
    folder: Path,
    changes: Sequence[str],
    users: int | None,
    quiet: bool,
) -> None:
    """Write open calls as JSONL."""
    from profiles.llm.batch_file import write_batch_file

    job = _batch_job(dataset, profile, folder, changes)
    with job.store() as store, bars(quiet) as begin:
        outcome, pending = _pending(job, store, users, begin("prompts made"))
        backend: Any = job.author.backend
        number = write_batch_file(to, pending, backend, begin("calls written"))
    out.print(f"{number} calls to answer; {len(outcome.profiles)} profiles are complete")
    wrote(to)


def import_batch(
    dataset: str,
    profile: str,
    file: Path,
    folder: Path,
    changes: Sequence[str],
    users: int | None,
    quiet: bool,
) -> None:
    """Take answers over."""
    from profiles.llm.batch_file import read_batch_file
    from profiles.write import accept_replies

    job = _batch_job(dataset, profile, folder, changes)
    price = price_function(job.author.backend.model, batch=True)
    with job.store() as store, bars(quiet) as begin:
        _, pending = _pending(job, store, users, begin("prompts made"))
        answers = read_batch_file(file, pending, begin("lines read"))
        taken = begin("answers taken")
        unusable = accept_replies(job.author, store, pending, answers.replies, price, taken)
        outcome, left = _pending(job, store, users, begin("profiles completed"))
    failed = answers.failed | unusable
    out.print(
        f"{len(answers.replies) - len(unusable)} answers taken, {len(failed)} unusable, "
        f"{len(answers.missing)} missing, {len(answers.repeated)} repeated, "
        f"{len(answers.unknown)} unknown ids"
    )
    for title, keys in (("missing", answers.missing), ("unknown", answers.unknown)):
        if keys:
            out.print(f"{title}: {', '.join(keys[:10])}{' ...' if len(keys) > 10 else ''}", markup=False)
    for key, reason in list(failed.items())[:10]:
        out.print(f"unusable: {key}: {reason}", markup=False)
    out.print(
        f"{len(outcome.profiles)} profiles are complete; {len(left)} calls are left for another export-batch"
    )
    wrote(folder / STORE)
