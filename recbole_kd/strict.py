"""The base of every validated specification: frozen, and an unknown key is an error."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen pydantic model that refuses unknown keys.

    Defaults live in ``properties/*.yaml``, not here: fields have no default unless ``None``
    means "off".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def canonical(self) -> dict[str, Any]:
        """JSON-ready form; equal specs have equal canonical forms."""
        return self.model_dump(mode="json")

    def digest(self, length: int = 16) -> str:
        """Hex digest of the canonical form (content address)."""
        return digest(self.canonical(), length)


def digest(value: Any, length: int = 16) -> str:
    """Return the first ``length`` hex digits of SHA-256 over canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
