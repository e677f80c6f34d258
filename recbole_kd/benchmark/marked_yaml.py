"""YAML that remembers the line of every key, so that errors can name it.

The loader is PyYAML's safe loader with three differences: mappings are :class:`MarkedDict`,
a key given twice is an error, and ``1e-3`` is a number (YAML 1.1 reads it as text).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.errors import SpecError

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?([eE][-+]?\d+)$|^[-+]?\.\d+([eE][-+]?\d+)?$")


@dataclass(frozen=True)
class Mark:
    """Where a value was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class MarkedDict(dict[str, Any]):
    """A mapping with the mark of every key.

    Attributes
    ----------
    mark : Mark
        Where the mapping begins.
    marks : dict of str to Mark
        Where each key stands.
    """

    def __init__(self, mark: Mark, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data or {})
        self.mark = mark
        self.marks: dict[str, Mark] = {}

    def put(self, key: str, value: Any, mark: Mark) -> None:
        """Set ``key`` and remember where it came from."""
        self[key] = value
        self.marks[key] = mark

    def without(self, *keys: str) -> MarkedDict:
        """Copy that lacks ``keys``."""
        result = MarkedDict(self.mark)
        for key, value in self.items():
            if key not in keys:
                result.put(key, value, self.where(key))
        return result

    def where(self, key: str) -> Mark:
        """Mark of ``key``, or of the mapping when the key is not in it."""
        return self.marks.get(key, self.mark)


class _Loader(yaml.SafeLoader):
    """Safe loader that knows the file it reads."""

    file_name: str = "<text>"


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> MarkedDict:
    result = MarkedDict(_mark(loader, node))
    for key_node, value_node in node.value:
        mark = _mark(loader, key_node)
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise SpecError(f"{mark}: '<<' merges are not supported; write 'include:' or repeat the keys")
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise SpecError(f"{mark}: a key must be plain text")
        if key in result:
            raise SpecError(f"{mark}: key '{key}' is given twice (first at line {result.marks[key].line})")
        result.put(key, loader.construct_object(value_node, deep=True), mark)
    return result


def _mark(loader: _Loader, node: yaml.Node) -> Mark:
    return Mark(loader.file_name, node.start_mark.line + 1)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_marked(path: Path) -> MarkedDict:
    """Read one YAML mapping.

    Parameters
    ----------
    path : Path

    Returns
    -------
    MarkedDict

    Raises
    ------
    SpecError
        The file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise SpecError(f"{path}: cannot be read ({reason})") from error
    return _copy(_parsed(text, str(path)))


@lru_cache(maxsize=256)
def _parsed(text: str, file_name: str) -> MarkedDict:
    """A file, parsed once however many cells are made of it."""
    return parse_marked(text, file_name)


def _copy(value: Any) -> Any:
    """Copy at every depth, marks included."""
    if isinstance(value, MarkedDict):
        result = MarkedDict(value.mark)
        for key, item in value.items():
            result.put(key, _copy(item), value.where(key))
        return result
    return [_copy(item) for item in value] if isinstance(value, list) else value


def parse_marked(text: str, file_name: str) -> MarkedDict:
    """Like :func:`load_marked` for text already in memory."""
    data = parse_value(text, file_name)
    if data is None:
        return MarkedDict(Mark(file_name, 1))
    if not isinstance(data, MarkedDict):
        raise SpecError(f"{file_name}:1: a mapping (key: value) is expected, not {type(data).__name__}")
    return data


def parse_value(text: str, file_name: str) -> Any:
    """Any YAML value: a number, a list, a :class:`MarkedDict`.

    Raises
    ------
    SpecError
        It is not YAML.
    """
    loader = _Loader(text)
    loader.file_name = file_name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        problem = getattr(error, "problem", None) or "malformed"
        raise SpecError(f"{file_name}:{line}: not valid YAML: {problem}") from error
    finally:
        loader.dispose()


def merge(base: MarkedDict, over: MarkedDict) -> MarkedDict:
    """Return ``base`` with ``over`` laid on top, mappings merged at every depth.

    Marks follow the value that wins; neither argument is changed.
    """
    result = MarkedDict(over.mark)
    for key, value in base.items():
        result.put(key, value, base.where(key))
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, MarkedDict) and isinstance(value, MarkedDict):
            value = merge(below, value)
        result.put(key, value, over.where(key))
    return result


def plain(value: Any) -> Any:
    """Copy without marks, for canonical forms and YAML output."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
