"""Arrays in files that vanish with them: the working memory of data sets past RAM."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from recbole_kd.errors import DataError

_BYTES_PER_ROW = 128
"""Temporaries of one interaction while a stretch of them is sorted (measured: 90 to 110)."""


@dataclass(frozen=True)
class Scratch:
    """A folder for memory-mapped arrays and how much may be held at a time.

    Attributes
    ----------
    folder : str
        On a disk; on most systems not the temporary folder, which may itself be memory.
    budget_mb : int
    """

    folder: str
    budget_mb: int

    @property
    def rows(self) -> int:
        """Interactions that are worked on at a time."""
        return max(1, (self.budget_mb << 20) // _BYTES_PER_ROW)

    def empty(self, n: int, dtype: DTypeLike) -> NDArray[Any]:
        """An array of ``n`` zeros in a file without a name; its room is free again when it is collected.

        Raises
        ------
        DataError
            The folder cannot be written.
        """
        if n == 0:
            return np.empty(0, dtype)
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                return np.memmap(file, dtype=dtype, mode="w+", shape=(n,))
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror}); mend memory.folder in the dataset YAML"
            ) from error

    def ranges(self, offsets: NDArray[np.int64]) -> Iterator[slice]:
        """Cut the rows of a CSR into stretches of at most ``rows`` interactions (a longer row stands alone).

        Rows without items at the end of a stretch belong to it; a stretch without any item is left out.
        """
        begin, n = 0, len(offsets) - 1
        while begin < n:
            end = int(np.searchsorted(offsets, offsets[begin] + self.rows, "right")) - 1
            end = min(n, max(end, begin + 1))
            if offsets[end] > offsets[begin]:
                yield slice(begin, end)
            begin = end
