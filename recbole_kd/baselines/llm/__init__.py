"""Systems with a language model in the loop: they re-rank the candidates of a trained retriever.

One file each, one line here, defaults in ``properties/ranker/<name>.yaml``; the interface, with an example,
is in ``recbole_kd/baselines/llm/base.py``. Candidates and the rule that makes full-catalogue ranks of a
re-ranking are in ``candidates.py``. This package may import ``profiles`` (the LLM interface, its store and
price table).
"""

from __future__ import annotations

RANKERS: dict[str, str] = {
    "retriever": "recbole_kd.baselines.llm.unchanged:Unchanged",
    "llmrank": "recbole_kd.baselines.llm.llmrank:LLMRank",
    "likelihood": "recbole_kd.baselines.llm.likelihood:Likelihood",
    "tallrec": "recbole_kd.baselines.llm.tuned.rankers:TallRecRanker",
    "llamarec": "recbole_kd.baselines.llm.tuned.rankers:LlamaRecRanker",
}
"""name -> class"""
