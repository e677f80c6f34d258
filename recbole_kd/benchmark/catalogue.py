"""What experiments can name, with one line about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_kd.baselines import COMPUTED, GENERATIVE, SERVING, SYSTEMS, TRAINED
from recbole_kd.baselines.llm import RANKERS
from recbole_kd.baselines.llm import SERVING as RANKER_SERVING
from recbole_kd.benchmark import properties
from recbole_kd.benchmark.marked_yaml import load_marked
from recbole_kd.benchmark.prefix import MARK, available

Entries = list[tuple[str, str]]


def entries(kind: str) -> Entries:
    """Names and descriptions of one kind: datasets, models, teachers, experiments, objectives, schedules."""
    return _KINDS[kind]()


def _yaml(kind: str) -> Callable[[], Entries]:
    return lambda: [(name, _about(properties.find(kind, name))) for name in properties.names(kind)]


def _about(path: Path) -> str:
    """The comment at the head of a YAML file, or its description."""
    described = load_marked(path).get("description")
    if isinstance(described, str):
        return described
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)


def _objectives() -> Entries:
    """Kind, what the file of its defaults says, and paper."""
    from recbole_kd.objectives.registry import OBJECTIVES

    filed = properties.names("objective")
    about = {name: _about(properties.find("objective", name)) for name in OBJECTIVES if name in filed}
    return [(name, f"{o.kind}: {about.get(name, '')} ({o.paper})") for name, o in OBJECTIVES.items()]


def _schedules() -> Entries:
    from recbole_kd.training.schedules import SCHEDULES

    return [(name, (schedule.__doc__ or "").strip().split("\n")[0]) for name, schedule in SCHEDULES.items()]


def _baselines() -> Entries:
    """Models of their own, systems on a backbone, re-rankers of its candidates, and RecBole's own models.

    The last are called as experiments must call them: a name that ``properties/model`` has means that file.
    """
    own = [(name, _needing("model", name, SERVING)) for name in (*COMPUTED, *TRAINED, *GENERATIVE)]
    laid = [(f"system: {name}", _needing("system", name, SERVING)) for name in SYSTEMS]
    asked = [(f"ranker: {name}", _needing("ranker", name, RANKER_SERVING)) for name in RANKERS]
    taken = set(properties.names("model"))
    theirs = [MARK + name if name in taken else name for name in available()]
    said = "RecBole's own class and Trainer, prefix mode"
    return own + laid + asked + [(name, said) for name in theirs]


def _needing(kind: str, name: str, needs: Mapping[str, str]) -> str:
    """The head of the file, and what serving needs beyond the trained weights."""
    about = _about(properties.find(kind, name))
    return f"{about} Needs when serving: {needs[name]}." if name in needs else about


_KINDS: dict[str, Callable[[], Entries]] = {
    "datasets": _yaml("dataset"),
    "models": _yaml("model"),
    "baselines": _baselines,
    "teachers": _yaml("profile"),
    "experiments": _yaml("experiment"),
    "objectives": _objectives,
    "schedules": _schedules,
}
