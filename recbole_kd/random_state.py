"""The state of numpy's random streams as plain numbers, which any file format holds."""

from __future__ import annotations

from typing import Any

import numpy as np


def stream_state(rng: np.random.Generator) -> dict[str, Any]:
    """State of a stream; arrays as lists of integers."""
    found: dict[str, Any] = _plain(rng.bit_generator.state)
    return found


def set_stream_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Put back what :func:`stream_state` gave for a stream of the same kind.

    Raises
    ------
    ValueError
        It is of another kind.
    """
    rng.bit_generator.state = _arrays(state)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [int(v) for v in value] if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(v) for key, v in value.items()}
    return np.array(value, np.uint64) if isinstance(value, list) else value
