"""Whether runs that are compared were made alike: by one version of the code, and rounded in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Manifest = Mapping[str, Any]
DIFFERENT_CODE = "different code"
DIFFERENT_ROUNDING = "different rounding"
PER_DATASET = (DIFFERENT_CODE, DIFFERENT_ROUNDING)
"""Heads of the problems of :func:`making_problems`."""


def making_problems(runs: Iterable[tuple[str, Manifest]]) -> list[str]:
    """What a reader must be told about how runs were made, a line per dataset and kind.

    Parameters
    ----------
    runs : iterable of (str, mapping)
        Dataset and manifest.
    """
    listed = list(runs)
    return [*code_problems(listed), *rounding_problems(listed)]


def code_problems(runs: Iterable[tuple[str, Manifest]]) -> list[str]:
    """Datasets whose runs were trained by several versions of the code.

    Parameters
    ----------
    runs : iterable of (str, mapping)
        Dataset and manifest; a manifest without ``code.source`` counts for no version.
    """
    versions: dict[str, set[str]] = {}
    for dataset, manifest in runs:
        if source := _part(manifest, "code").get("source"):
            versions.setdefault(dataset, set()).add(str(source))
    return [
        f"{DIFFERENT_CODE}: the runs on {dataset} come from {len(own)} versions of it, which may round "
        "otherwise (manifest.json, code)"
        for dataset, own in versions.items()
        if len(own) > 1
    ]


def rounding_problems(runs: Iterable[tuple[str, Manifest]]) -> list[str]:
    """Datasets whose runs were computed on devices, or in precisions, that round otherwise.

    Parameters
    ----------
    runs : iterable of (str, mapping)
        Dataset and manifest; what a manifest does not say counts for no value.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for dataset, manifest in runs:
        for name, values in ROUNDS.items():
            said = {str(value) for value in values(manifest) if value is not None and value != ""}
            found.setdefault(dataset, {}).setdefault(name, set()).update(said)
    problems = []
    for dataset, own in found.items():
        differing = [f"{name} ({', '.join(sorted(said))})" for name, said in own.items() if len(said) > 1]
        if differing:
            problems.append(
                f"{DIFFERENT_ROUNDING}: the runs on {dataset} differ in {', '.join(differing)}, which may "
                "move results by more than a method does (manifest.json)"
            )
    return problems


def _part(manifest: Manifest, name: str) -> Manifest:
    """A mapping of a manifest; empty where it is missing or something else."""
    part = manifest.get(name)
    return part if isinstance(part, Mapping) else {}


def _device(manifest: Manifest) -> str:
    """Kind of device, with the name of a GPU and without its number: ``cuda:1 (X)`` is ``cuda (X)``."""
    return re.sub(r"^(\w+):\d+", r"\1", str(manifest.get("device") or ""))


def _processors(manifest: Manifest) -> list[Any]:
    """Processors that a run was computed on, an interrupted one's earlier parts included.

    None for a GPU's runs, whose processor only feeds it.
    """
    if not _device(manifest).startswith("cpu"):
        return []
    earlier = _part(manifest, "execution").get("earlier_parts") or []
    return [_part(manifest, "machine").get("processor"), *(part.get("processor") for part in earlier)]


def _setting(name: str) -> Callable[[Manifest], list[Any]]:
    return lambda manifest: [_part(manifest, "execution").get(name)]


ROUNDS: dict[str, Callable[[Manifest], list[Any]]] = {
    "device": lambda manifest: [_device(manifest)],
    "processor": _processors,
    "torch": lambda manifest: [_part(manifest, "versions").get("torch")],
    "autocast": _setting("autocast"),
    "tf32": _setting("tf32"),
    "softmax precision": _setting("softmax_precision"),
}
"""What decides how sums and products are rounded -> its values in a manifest. Cores, memory, paths, package
versions but torch's, and how evaluation is cut into tiles do not."""
