"""``refresh.json`` beside ``experiment.json``: how many profiles each policy wrote until the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.extras.plan import done_runs, read_plan, results_of
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import Split
from recbole_kd.serving.student import read_spec

FILE = "refresh.json"


def write_refresh(folder: Path, _: Any = None) -> Path:
    """Play every teacher's policy again, without writing a profile, and say what it took.

    Entries: ``dataset``, ``variant``, ``calls`` (profiles written until then), ``cumulative`` (whether they
    include earlier trainings: a teacher without a policy writes for everybody at every training),
    ``users``, ``refreshed_users``, ``unseen`` (interactions that the profile in force had not seen when the
    next one came, mean since the first profile; null without a policy).
    """
    results = results_of(folder)
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    splits: dict[str, Split] = {}
    for cell, run in done_runs(folder, read_plan(folder)):
        key = (str(cell["dataset"]), str(cell["variant"]))
        spec = read_spec(run)
        if key in entries or spec.teacher is None or "writer" not in spec.teacher:
            continue
        path = split_file(results, spec)
        split = splits.setdefault(path.name, read_split(path))
        entries[key] = {"dataset": key[0], "variant": key[1]} | _played(spec, split)
    path = folder / FILE
    rundir.write_text_atomic(path, json.dumps(list(entries.values()), indent=1) + "\n")
    return path


def _played(cell: CellSpec, split: Split) -> dict[str, Any]:
    from profiles.build import histories_of, refresh_log
    from profiles.history import train_histories
    from profiles.spec import TeacherSpec
    from recbole_kd.data.load import load_item_texts

    spec, domain = TeacherSpec.model_validate(cell.teacher), cell.dataset.domain
    texts = load_item_texts(cell.dataset)
    if spec.refresh is None:
        users = len(histories_of(spec, split, texts, domain))
        return {"calls": users, "cumulative": False, "users": users, "refreshed_users": 0, "unseen": None}
    whole = train_histories(split)
    start = {h.user: h.last for h in train_histories(split, spec.as_of)}
    log = refresh_log(spec, spec.refresh, whole, start, texts, domain)
    return {
        "calls": log.calls,
        "cumulative": True,
        "users": len(whole),
        "refreshed_users": log.refreshed_users,
        "unseen": log.staleness,
    }
