"""Which prefixes of a piece are compared with the profile, and how much each counts.

A profile is written from the whole train history, so that for an early prefix it is a look-ahead: it knows
items that the student has not seen (train items, never the test part).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from recbole_kd.models.names import find
from recbole_kd.models.pooling import Tokens

Share = Callable[[Tokens, Tensor, Tensor], Tensor]


def _equal(tokens: Tokens, start: Tensor, history: Tensor) -> Tensor:
    return tokens.hidden.new_ones(len(tokens.piece))


def _history_share(tokens: Tokens, start: Tensor, history: Tensor) -> Tensor:
    seen = start[tokens.piece] + tokens.position + 1
    return seen.to(tokens.hidden.dtype) / history[tokens.piece]


PREFIXES: dict[str, Share | None] = {
    "last": None,
    "every": _equal,
    "history-share": _history_share,
}
"""name -> weight of the prefix that ends at each token [T], or None: only whole pieces, weight 1.

``every`` counts all prefixes alike; ``history-share`` counts one by the share of the train history that lies
at or before its end, so that what the profile could not have from the prefix pulls less.
"""


def get_prefixes(name: str) -> Share | None:
    """Return the weighting called ``name``.

    Raises
    ------
    SpecError
    """
    return find(PREFIXES, name, "distill.prefixes")
