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

SERVING: dict[str, str] = {
    "retriever": "its retriever",
    "llmrank": "its retriever and a chat model, local or an endpoint: a written answer per shuffle and user",
    "likelihood": "its retriever and a local language model: the history and N titles read per user",
    "tallrec": "its retriever and a local language model with adapters: N questions read per user",
    "llamarec": "its retriever and a local language model with adapters: one prompt read per user",
}
"""name -> what must be at hand for every user it serves; with ``profile:`` also the user's stored text"""
