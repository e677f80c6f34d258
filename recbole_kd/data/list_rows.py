"""Scores of all items to the rows of a list file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.types import Split

if TYPE_CHECKING:
    import pandas as pd


class ListRows:
    """Collects the best items of users, chunk by chunk.

    Parameters
    ----------
    split : Split
    top : int
        Longest list.
    """

    def __init__(self, split: Split, top: int) -> None:
        self._split, self._top = split, top
        self._parts: list[pd.DataFrame] = []
        self._row = np.full(split.dataset.n_users, -1)
        self._row[split.train.users] = np.arange(len(split.train))

    def add(
        self,
        users: NDArray[np.int64],
        score: NDArray[np.float32],
        *,
        exclude_seen: bool,
        source_user: Sequence[str] | NDArray[np.object_],
        history_last: Sequence[int] | NDArray[np.int64],
        history_hash: Sequence[str] | NDArray[np.object_],
    ) -> None:
        """Rank the items of some users; equal scores go by item id.

        Parameters
        ----------
        users : int64 [B]
            User ids.
        score : float32 [B, n_items]
            Minus infinity: cannot be listed. Altered.
        exclude_seen : bool
            Leave out the items of each user's train history.
        source_user, history_last, history_hash : [B]
            Provenance of each list.
        """
        import pandas as pd

        score[:, 0] = -np.inf
        if exclude_seen:
            for at, user in enumerate(users):
                if self._row[user] >= 0:
                    score[at, self._split.train.row(int(self._row[user]))] = -np.inf
        best = np.argsort(-score, axis=1, kind="stable")[:, : self._top]
        value = np.take_along_axis(score, best, 1)
        b, k = np.nonzero(np.isfinite(value))
        tokens = self._split.dataset
        self._parts.append(
            pd.DataFrame(
                {
                    "user": tokens.user_tokens[users[b]].astype(str),
                    "rank": (k + 1).astype(np.int32),
                    "item": tokens.item_tokens[best[b, k]].astype(str),
                    "score": value[b, k],
                    "source_user": np.asarray(source_user, object)[b].astype(str),
                    "history_last": np.asarray(history_last, np.int32)[b],
                    "history_hash": np.asarray(history_hash, object)[b].astype(str),
                }
            )
        )

    def frame(self) -> pd.DataFrame:
        """All rows, ready for ``write_teacher_lists``."""
        import pandas as pd

        return pd.concat(self._parts, ignore_index=True)
