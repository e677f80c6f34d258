"""Names to implementations, imported only when asked for.

Adding a back-end, prompt strategy, encoder, reduction, corruption or refresh policy is one file
and one line in the registry of its room.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar, cast

from recbole_kd.errors import SpecError

T = TypeVar("T")


class Registry(Generic[T]):
    """Lazy registry: ``name -> "package.module:attribute"``.

    Parameters
    ----------
    kind : str
        What the entries are, for error messages (``"encoder"``).
    entries : mapping of str to str
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def check(self, name: str) -> str:
        """Return ``name``.

        Raises
        ------
        SpecError
            No entry of that name; the message offers the nearest one.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; use one of {', '.join(self)}"
            raise SpecError(f"unknown {self.kind} '{name}'{hint}")
        return name

    def __getitem__(self, name: str) -> T:
        """Import and return the entry."""
        module, _, attribute = self._entries[self.check(name)].partition(":")
        return cast(T, getattr(import_module(module), attribute))
