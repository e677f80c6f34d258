"""``users.json`` beside ``experiment.json``: what distillation changed for single users.

For every user: the history, the profile and whom it was written for, its grounding, the target, and the
ten best items of the plain and of the distilled student. Titles and profiles are untrusted text; the report
escapes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.extras.plan import Pair, pairs, read_plan, results_of
from recbole_kd.benchmark.extras.texts import make_auditor, profile_texts
from recbole_kd.data.types import Split
from recbole_kd.errors import UserError
from recbole_kd.metrics import per_user

FILE = "users.json"
SHOWN = 10
_HISTORY = 25
_EACH = 2


def write_examples(folder: Path, users: Sequence[str] = ()) -> Path | None:
    """Write the examples of one pair of runs per dataset (see `plan.pairs`).

    Parameters
    ----------
    folder : Path
        Of the experiment.
    users : sequence of str
        User tokens; by default those with the largest gain, the largest loss, and random ones.

    Returns
    -------
    Path or None
        None where no dataset has a finished pair.

    Raises
    ------
    UserError
        A user of ``users`` was tested nowhere.
    """
    plan = read_plan(folder)
    entries, known = [], set()
    chosen = pairs(folder, plan)
    for pair in chosen:
        table = _gains(pair, str(plan["metrics"][0]))
        known |= set(table.index)
        picked = [(u, "chosen") for u in users if u in table.index] if users else _pick(table)
        entries += _entries(results_of(folder), pair, table, picked)
    unknown = [user for user in users if user not in known]
    if unknown:
        raise UserError(f"--users {unknown[0]}: no such user among those that {folder} tested")
    if not chosen:
        return None
    path = folder / FILE
    rundir.write_text_atomic(path, json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    return path


def _gains(pair: Pair, metric: str) -> pd.DataFrame:
    """Ranks before and after by user; a user with several targets keeps the first."""
    columns = ["split", "user", "item", "rank"]
    sides = []
    for run in (pair.before, pair.after):
        table = pd.read_parquet(run / "ranks.parquet", columns=columns)
        sides.append(table[table["split"] == "test"].drop_duplicates("user").set_index("user"))
    both = sides[0][["item", "rank"]].join(sides[1]["rank"].rename("after"), how="inner")
    both.index = both.index.astype(str)
    both = both.rename(columns={"rank": "before"})
    both["gain"] = per_user(both["after"].to_numpy(float), metric) - per_user(
        both["before"].to_numpy(float), metric
    )
    both["closer"] = np.log(both["before"] / both["after"])
    return both


def _pick(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Users with the largest gain, the largest loss and random others; ties by rank, then by token."""
    order = table.sort_index().sort_values(["gain", "closer"], kind="stable")
    names = list(order.index)
    least = min(_EACH, len(names) // 2)
    best, worst = names[::-1][:least], names[:least]
    rest = sorted(set(names) - {*best, *worst})
    drawn = np.random.default_rng(0).permutation(len(rest))[:_EACH]
    chosen = [(u, "largest gain") for u in best] + [(u, "largest loss") for u in worst]
    return chosen + [(rest[i], "drawn at random") for i in drawn]


def _entries(
    results: Path, pair: Pair, table: pd.DataFrame, picked: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    from recbole_kd.data.load import load_item_texts
    from recbole_kd.serving.student import load_student

    before, after = load_student(pair.before), load_student(pair.after)
    split = read_split(split_file(results, after.spec))
    dataset = after.spec.dataset
    texts = load_item_texts(dataset) if dataset.text is not None else {}
    title_of = dataset.text.title if dataset.text is not None else ""

    def title(token: str) -> str:
        return texts.get(token, {}).get(title_of) or token

    profiles = profile_texts(results, rundir.read_manifest(pair.after))
    auditor = make_auditor(after.spec, split, texts) if profiles else None
    rows = {str(split.dataset.user_tokens[u]): r for r, u in enumerate(split.test.history.users)}
    best = {name: _top(t, split, [rows[u] for u, _ in picked]) for name, t in (("b", before), ("a", after))}
    entries = []
    for place, (user, why) in enumerate(picked):
        profile, numbers = profiles.get(user), table.loc[user]
        scored = auditor.score(user, profile.text).grounding if auditor and profile else None
        history = [title(str(split.dataset.item_tokens[i])) for i in split.test.history.row(rows[user])]
        entries.append(
            {
                "dataset": pair.dataset,
                "backbone": pair.backbone,
                "baseline": pair.baseline,
                "variant": pair.variant,
                "seed": pair.seed,
                "user": user,
                "why": why,
                "history": history[-_HISTORY:],
                "earlier": max(0, len(history) - _HISTORY),
                "profile": profile.text if profile else None,
                "written_for": profile.source_user if profile else None,
                "grounding": scored,
                "target": title(str(numbers["item"])),
                "rank_before": float(numbers["before"]),
                "rank_after": float(numbers["after"]),
                "before": [title(token) for token in best["b"][place]],
                "after": [title(token) for token in best["a"][place]],
            }
        )
    return entries


def _top(trained: Any, split: Split, rows: Sequence[int]) -> list[list[str]]:
    """Tokens of the best items for rows of the test part, best first, among all items."""
    import torch

    from recbole_kd.ranking import last_items
    from recbole_kd.serving.student import Scorer

    found = []
    for row in rows:
        given = last_items(split.test, slice(row, row + 1), trained.max_len)
        with torch.no_grad():
            scores = Scorer(trained.model)(*given)[0, 1:]
        best = scores.topk(min(SHOWN, len(scores))).indices + 1
        found.append([str(split.dataset.item_tokens[i]) for i in best])
    return found
