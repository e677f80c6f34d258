"""``space.parquet`` beside ``experiment.json``: profiles and students' states of the same users.

One row per dataset, space and user: the profile as distilled (standardised), and the mean final output over
the latest train items of the plain and of the distilled student (see `plan.pairs`), with the category that
the user favours, from the train history alone. ``analysis`` draws them side by side.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.benchmark import rooms, rundir
from recbole_kd.benchmark.artefacts import read_split, split_file, write_bytes_atomic
from recbole_kd.benchmark.extras.plan import Pair, pairs, read_plan, results_of
from recbole_kd.data.types import Split

if TYPE_CHECKING:
    from recbole_kd.serving.student import Trained

FILE = "space.parquet"
USERS = 1000
"""Users drawn, with a fixed seed; a map of more is a blot."""
UNKNOWN = "none named"
_SEED = 2026
_KEY = b"recbole_kd_runs"
_COLUMNS = ("dataset", "backbone", "baseline", "variant", "seed", "space", "user", "attribute", "vector")


def write_space(folder: Path) -> Path | None:
    """Write the file for one pair of runs per dataset, unless it has them.

    Returns
    -------
    Path or None
        None where no finished pair has a profile vector per user and two students of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = pairs(folder, read_plan(folder))
    state = " ".join(f"{p.before.name} {p.after.name}" for p in chosen).encode()
    path = folder / FILE
    if path.is_file() and (pq.read_schema(path).metadata or {}).get(_KEY) == state:
        return path
    rows = [row for pair in chosen for row in _rows(results_of(folder), pair)]
    if not rows:
        path.unlink(missing_ok=True)
        return None
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_KEY: state}), buffer)
    write_bytes_atomic(path, buffer.getvalue())
    return path


def _rows(results: Path, pair: Pair) -> Iterator[tuple[Any, ...]]:
    from recbole_kd.data.profile_table import load_profiles
    from recbole_kd.serving.student import load_student, read_spec
    from recbole_kd.training.diagnostics import mean_profiles, sample_users

    spec, file = read_spec(pair.after), _profile_file(results, pair.after)
    if file is None or any(read_spec(run).student.system for run in (pair.before, pair.after)):
        return
    split = read_split(split_file(results, spec))
    vectors, known = mean_profiles(load_profiles(file, split, trust_unverified=True))
    users = sample_users(split, known, USERS, _SEED)
    spaces: dict[str, NDArray[Any]] = {
        "profiles": vectors[users],
        pair.baseline: pooled_states(load_student(pair.before), split, users),
        pair.variant: pooled_states(load_student(pair.after), split, users),
    }
    tokens = [str(split.dataset.user_tokens[u]) for u in users]
    favoured = _favoured(split, spec.dataset)
    own = (pair.dataset, pair.backbone, pair.baseline, pair.variant, pair.seed)
    for space, states in spaces.items():
        for token, state in zip(tokens, states, strict=True):
            yield (*own, space, token, favoured.get(token, UNKNOWN), state.astype(np.float32))


def _profile_file(results: Path, run: Path) -> Path | None:
    """Embedding file of a run's teacher, or None where it has none that is still there."""
    from recbole_kd.serving.student import read_spec

    named = rundir.read_manifest(run).get("profile_file")
    given = read_spec(run).teacher_file
    path = Path(given) if given is not None else None
    if path is None and named:
        path = rooms.profiles_folder(results) / str(named["name"])
    return path if path is not None and path.is_file() else None


def pooled_states(student: Trained, split: Split, users: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean final output over each user's latest train items, float32 [N, H]."""
    import torch

    from recbole_kd.models.mixin import padded_batch
    from recbole_kd.training.diagnostics import last_train_items

    batch = padded_batch(*last_train_items(split.train, users, student.max_len), torch.from_numpy(users))
    with torch.no_grad():
        state = student.model.distil_state(student.model.encode(batch, None), batch)
    return np.asarray(state.numpy(), np.float32)


def _favoured(split: Split, dataset: Any) -> dict[str, str]:
    """Category that exceeds the mean of all users most in each user's train history, by user token."""
    if dataset.text is None:
        return {}
    from profiles.facts import Statistician
    from profiles.history import train_histories
    from profiles.items import Catalogue
    from profiles.prompts import load_domain
    from recbole_kd.data.load import load_item_texts

    histories = train_histories(split)
    facts = Statistician(Catalogue(load_item_texts(dataset), load_domain(dataset.domain)), histories)
    named = {history.user: facts.facts(history).favourites for history in histories}
    return {user: favourites[0] for user, favourites in named.items() if favourites}
