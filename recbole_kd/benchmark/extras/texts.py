"""Profile texts of a run's teacher and how far the histories support them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import Split


@dataclass(frozen=True)
class ProfileText:
    """What a user's vector was made from.

    Attributes
    ----------
    source_user : str
        Whose history it describes; another user in the shuffled placebo.
    """

    text: str
    source_user: str


def profile_texts(results: Path, manifest: dict[str, Any]) -> dict[str, ProfileText]:
    """Text of every user's (first) profile; empty where the store does not have them.

    Corruption is applied to a text when it is embedded, so a corrupted teacher's texts are shown as written.

    Parameters
    ----------
    results : Path
    manifest : dict
        Of a run with a teacher.
    """
    import pyarrow.parquet as pq

    from profiles.job import STORE
    from profiles.store import Store

    folder = rooms.profiles_folder(results)
    named, profile = manifest.get("profile_file"), manifest.get("profile") or {}
    writer = profile.get("writer") or {}
    if not named or "model" not in writer or not (folder / STORE).is_file():
        return {}
    path = folder / str(named["name"])
    if not path.is_file():
        return {}
    rows = pq.read_table(path, columns=["user", "profile", "source_user", "history_hash"]).to_pylist()
    where = {"dataset": profile["dataset"], "model": writer["model"], "prompt": writer["prompt"]}
    with Store(folder / STORE) as store:
        written = {(p.user, p.profile, p.history_hash): p.text for p in store.profiles(**where)}
    found: dict[str, ProfileText] = {}
    for row in rows:
        text = written.get((row["source_user"], row["profile"], row["history_hash"]))
        if text is not None:
            found.setdefault(row["user"], ProfileText(text, row["source_user"]))
    return found


def make_auditor(spec: CellSpec, split: Split, item_texts: dict[str, dict[str, str]]) -> Any:
    """Auditor of the teacher's texts, or None where there is no teacher or no item text."""
    if spec.teacher is None or "writer" not in spec.teacher or not item_texts:
        return None
    from profiles.audit import Auditor
    from profiles.facts import Statistician
    from profiles.history import train_histories
    from profiles.items import Catalogue
    from profiles.prompts import load_prompt
    from profiles.spec import TeacherSpec

    writer = TeacherSpec.model_validate(spec.teacher).writer
    prompt = load_prompt(writer.prompt, writer.domain or spec.dataset.domain)
    histories = train_histories(split)
    return Auditor(Statistician(Catalogue(item_texts, prompt.domain), histories), histories)
