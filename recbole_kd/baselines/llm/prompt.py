"""The prompts of the zero-shot re-ranker (``prompts/*.yaml``), in the words of a domain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from profiles.prompts import load_domain
from profiles.prompts.kind import Kind, Message, Prompt
from profiles.yamlfile import read_yaml
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

FOLDER = Path(__file__).parent / "prompts"
LIKELIHOOD = "likelihood"
PROMPTS: tuple[str, ...] = tuple(sorted({path.stem for path in FOLDER.glob("*.yaml")} - {LIKELIHOOD}))
ANSWERS = ("titles", "numbers", "json")


class _File(Strict):
    version: int
    system: str
    user: str
    opening: str


class RankingPrompt:
    """One way to ask for a ranking.

    Attributes
    ----------
    version : str
        Name, versions and hash of the prompt's and the domain's file.
    """

    def __init__(self, name: str, domain: str, answer: str) -> None:
        if answer not in ANSWERS:
            raise SpecError(f"params.answer: '{answer}' is unknown{did_you_mean(answer, ANSWERS)}")
        path = FOLDER / f"{name}.yaml"
        file = read_yaml(path, _File)
        kind = Kind(
            version=file.version,
            description=name,
            writes="profile",
            system=file.system,
            user=file.user,
            opening=file.opening,
            sentences=None,
        )
        self._prompt = Prompt(name, kind, hashlib.sha256(path.read_bytes()).hexdigest(), load_domain(domain))
        self._answer = answer
        self._demonstrates = name == "in-context"

    @property
    def version(self) -> str:
        """See the class."""
        return f"{self._prompt.version}/{self._answer}"

    def message(self, history: Sequence[str], candidates: Sequence[str], profile: str | None) -> Message:
        """What is asked about one user.

        Parameters
        ----------
        history : sequence of str
            Titles, oldest first; may be empty where there is a profile.
        candidates : sequence of str
            Titles in the order in which they are shown.
        profile : str or None
        """
        demonstrated = history[-1] if self._demonstrates and len(history) > 1 else None
        grounds = "my history" if history else "my taste"
        context = {
            "history": list(history[:-1] if demonstrated else history),
            "candidates": list(candidates),
            "profile": profile,
            "demonstrated": demonstrated,
            "grounds": grounds,
            "answer": self._answer,
        }
        return self._prompt.messages(context)[0]
