"""The retriever's own order: what every re-ranker must beat, and a check of the plumbing."""

from __future__ import annotations

from recbole_kd.baselines.llm.base import LLMRanker, Ranking, Usage
from recbole_kd.baselines.llm.candidates import CandidateSets


class Unchanged(LLMRanker):
    """Scores that repeat the retriever's order, ties included; asks no model."""

    def rank(self, sets: CandidateSets) -> Ranking:
        """See :class:`LLMRanker`."""
        return Ranking(sets.retriever_scores(), Usage.zeros(len(sets)))
