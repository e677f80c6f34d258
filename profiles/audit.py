"""Grounding: does the history support what a profile claims, and does the profile name what matters?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from profiles.facts import Statistician
from profiles.history import UserHistory
from profiles.lexicon import Attribute, Lexicon
from profiles.progress import Progress, tracked
from profiles.store import Profile

TOP = 3


@dataclass(frozen=True)
class Grounding:
    """Scores of one profile.

    Attributes
    ----------
    mentions : int
        Categories, makers and titles that the text names, repetitions included.
    supported : int
        Those that occur in the history.
    precision : float
        ``supported / mentions``; NaN for a text that names nothing.
    coverage : float
        Share of the user's top attributes that the text names: the three most frequent categories
        and, of makers met at least twice, the two most frequent. NaN when there are none.
    grounding : float
        Harmonic mean of precision (0 for a text that names nothing) and coverage.
    """

    mentions: int
    supported: int
    precision: float
    coverage: float
    grounding: float


class Auditor:
    """Scores profiles against train histories.

    A negated mention ("hardly any horror") counts as a mention; prompts and templates of this
    package only say what users choose.

    Parameters
    ----------
    statistician : Statistician
    histories : sequence of UserHistory
    """

    def __init__(self, statistician: Statistician, histories: Sequence[UserHistory]) -> None:
        self._statistician = statistician
        self._histories = {h.user: h for h in histories}
        self.lexicon = Lexicon(statistician.catalogue, (i for h in histories for i in h.items))
        self._known: dict[str, tuple[set[Attribute], list[Attribute]]] = {}

    def score(self, user: str, text: str) -> Grounding:
        """Score a text as a profile of ``user``."""
        own, top = self._of(user)
        mentioned = [m.attribute for m in self.lexicon.mentions(text)]
        supported = sum(attribute in own for attribute in mentioned)
        precision = supported / len(mentioned) if mentioned else float("nan")
        coverage = len(set(top) & set(mentioned)) / len(top) if top else float("nan")
        p = 0.0 if np.isnan(precision) else precision
        c = p if np.isnan(coverage) else coverage
        grounding = 2 * p * c / (p + c) if p + c else 0.0
        return Grounding(len(mentioned), supported, precision, coverage, grounding)

    def _of(self, user: str) -> tuple[set[Attribute], list[Attribute]]:
        if user not in self._known:
            history = self._histories[user]
            facts = self._statistician.facts(history)
            top = [Attribute("category", name) for name, _ in facts.shares[:TOP]]
            top += [Attribute("maker", name) for name, _ in facts.makers[:2]]
            self._known[user] = self.lexicon.of_items(history.items), top
        return self._known[user]


def audit(
    auditor: Auditor,
    profiles: Sequence[Profile],
    texts: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Score profiles; one row each.

    Parameters
    ----------
    texts : sequence of str, optional
        Score these instead of the profiles' own (after corruption, say).
    progress : callable, optional
        ``progress(done, total)`` in profiles.

    Returns
    -------
    DataFrame
        ``user``, ``profile``, ``writer``, ``mentions``, ``supported``, ``precision``, ``coverage``,
        ``grounding``.
    """
    rows = []
    pairs = zip(profiles, texts or [p.text for p in profiles], strict=True)
    for profile, text in tracked(pairs, progress, len(profiles)):
        g = auditor.score(profile.user, text)
        writer = profile.prompt.split("@")[0] + (
            f" by {profile.model}" if profile.model != "template" else ""
        )
        rows.append({"user": profile.user, "profile": profile.profile, "writer": writer} | vars(g))
    return pd.DataFrame(rows)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean scores by writer, best grounded first; ``silent`` is the share that names nothing."""
    groups = scores.groupby("writer")
    table = groups[["mentions", "precision", "coverage", "grounding"]].mean()
    table.insert(0, "profiles", groups.size())
    table["silent"] = groups["mentions"].apply(lambda column: (column == 0).mean())
    return table.sort_values("grounding", ascending=False).reset_index()


def dose_response(
    auditor: Auditor, profiles: Sequence[Profile], damaged: Mapping[float, Sequence[str]]
) -> pd.DataFrame:
    """Mean scores by corruption rate: ``damaged`` maps a rate to the texts at that rate."""
    rows = []
    for rate in sorted(damaged):
        scores = audit(auditor, profiles, damaged[rate])
        means = scores[["mentions", "precision", "coverage", "grounding"]].mean().to_dict()
        rows.append({"rate": rate} | {str(k): float(v) for k, v in means.items()})
    return pd.DataFrame(rows)
