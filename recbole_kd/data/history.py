"""Names for histories: equal hash means equal items in equal order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_LENGTH = 16


def _encode(token: str) -> bytes:
    # A length in front of every token: ["ab", "c"] and ["a", "bc"] must differ.
    raw = token.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(raw), raw)


def history_hash(item_tokens: Sequence[str]) -> str:
    """Return 16 hex digits of SHA-256 over the item tokens, in order.

    Examples
    --------
    >>> history_hash(["1", "23"]) == history_hash(["12", "3"])
    False
    """
    return hashlib.sha256(b"".join(map(_encode, map(str, item_tokens)))).hexdigest()[:HASH_LENGTH]


def prefix_hashes(item_tokens: Sequence[str]) -> list[str]:
    """Hash every prefix in one pass: entry ``n`` is ``history_hash(item_tokens[:n])``, n = 0..len."""
    state = hashlib.sha256()
    hashes = [state.hexdigest()[:HASH_LENGTH]]
    for token in item_tokens:
        state.update(_encode(str(token)))
        hashes.append(state.hexdigest()[:HASH_LENGTH])
    return hashes


class HistoryHasher:
    """Hash many histories of item ids over one catalogue; every token is encoded once.

    Parameters
    ----------
    item_tokens : sequence of str
        Token of every item id.
    """

    def __init__(self, item_tokens: Sequence[str]) -> None:
        self._encoded = [_encode(str(token)) for token in item_tokens]

    def __call__(self, item_ids: Sequence[int]) -> str:
        """Return ``history_hash`` of the tokens of ``item_ids``."""
        encoded = self._encoded
        return hashlib.sha256(b"".join([encoded[i] for i in item_ids])).hexdigest()[:HASH_LENGTH]
