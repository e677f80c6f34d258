"""A first guess at how long cells take, before any of their kind has run: data size times model size.

Multiply-adds of an epoch are counted, roughly, and divided by what one core of an ordinary processor does.
Off by a factor of three either way, more on a GPU; cells of other kinds that have run here correct it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache
from typing import Any

from recbole_kd.baselines import COMPUTED, GENERATIVE
from recbole_kd.benchmark import ranker_work
from recbole_kd.benchmark.plan import CellState, Plan, kind_of
from recbole_kd.benchmark.prefix import MARK
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.errors import UserError

_SPEED = 16e9  # multiply-adds per second of one core; 14 to 26 on a slow AVX2 core, ml-100k
_EPOCHS = 20  # until early stopping ends an ordinary run
_BACKWARD = 3  # forward and backward pass over a forward one
_START = 3.0  # seconds for reading, ranking, writing
_PAIRWISE = ("BPR", "FPMC")  # losses over one negative instead of the catalogue
_PROMPT, _NAME = 30, 5  # tokens of a generative model's prompt without items, and of an item's name
_TEXT = 384  # width of the text vectors
_LINES = 2_000_000  # of a file, read at most; the rest by its size


@dataclass(frozen=True)
class Size:
    """Interactions, users and items of a file, before any filter."""

    interactions: int
    users: int
    items: int


def guesses(plan: Plan) -> dict[str, float]:
    """Cell -> seconds, for cells whose kind has not run yet; empty where the data cannot be read."""
    raw = {s.cell: found for s in plan.states if (found := _guess(s.planned.spec)) is not None}
    ratios = [s.estimate / raw[s.cell] for s in _ran(plan) if s.estimate and s.cell in raw]
    scale = statistics.median(ratios) if ratios else 1.0
    return {s.cell: scale * raw[s.cell] for s in plan.states if s.estimate is None and s.cell in raw}


def _ran(plan: Plan) -> list[CellState]:
    """One state for every kind that has run."""
    return list({kind_of(s.planned): s for s in plan.states if s.estimate is not None}.values())


def _guess(cell: CellSpec) -> float | None:
    if cell.ranker is not None:
        asked = ranker_work.work(cell)
        return None if asked is None else _START + asked / _SPEED
    try:
        size = size_of(cell)
    except (UserError, OSError, ValueError):
        return None
    name = cell.student.model.removesuffix("KD")
    if name in COMPUTED:
        cubic = size.items**3 if name == "EASE" else size.items * size.interactions
        return _START + cubic / _SPEED
    said = (cell.inputs or {}).get("pretrain")
    before = 0 if said is None else int(said["spec"]["epochs"])
    train = cell.student.train
    # A rate that falls to nothing has its course to run; at a constant one patience ends it.
    epochs = train.epochs if train.rate_falls else min(max(_EPOCHS, train.passed_over), train.epochs)
    return _START + (epochs + before) * epoch_work(cell, size) / _SPEED


def epoch_work(cell: CellSpec, size: Size) -> float:
    """Multiply-adds of an epoch of training and validation."""
    student, h = cell.student, cell.student.hparams
    # Only the train part shrinks with a sample; everybody is validated.
    length, n = cell.dataset.max_item_list_length, size.interactions * _share(cell)
    name = student.model.removesuffix("KD")
    width = int(h.get("hidden_size") or h.get("embedding_size") or 64)
    if name in GENERATIVE:
        return _generative_work(h, size)
    if name == "Recformer":
        return _language_work(h, size, length)
    encoder = _encoder_work(name, h, width, length)
    scores = width if name in _PAIRWISE else size.items * width
    if student.model.startswith(MARK):
        work: float = _BACKWARD * n * (length * encoder + scores)
    else:
        steps = max(n / length, size.users / length) / student.train.train_batch_size
        twice = 2 if student.system is not None and student.system.name == "llm-esr" else 1
        work = _BACKWARD * (
            n * twice * (encoder + scores) + steps * size.items * _table_work(student.system, width)
        )
    return work + size.users * (length * encoder + size.items * width)


def _share(cell: CellSpec) -> float:
    """Of the interactions, left to train on by the split's sample."""
    sample = cell.dataset.split.sample
    return 1.0 if sample is None else (sample.users or 1.0) * (sample.interactions or 1.0)


def _encoder_work(name: str, h: dict[str, Any], width: int, length: int) -> int:
    """Of one position."""
    layers = int(h.get("n_layers") or h.get("num_layers") or 1)
    if name in _PAIRWISE:
        return width
    if "inner_size" in h:
        return layers * (4 * width**2 + 2 * width * int(h["inner_size"]) + 2 * length * width)
    return layers * 6 * width**2


def _table_work(system: Any, width: int) -> int:
    """Of one item, where the item vectors are computed anew at every step."""
    if system is None or system.name in ("text-init", "profile-token"):
        return 0
    experts = int(system.params.get("n_experts", 1))
    return _TEXT * max(width * experts, int(system.params.get("hidden", width)))


def _language_work(h: dict[str, Any], size: Size, length: int) -> float:
    blocks, width = int(h["layers"] or 12), _TEXT * (1 if h["layers"] else 2)
    token = blocks * 12 * width**2
    windows = max(size.users, size.interactions / length)
    history = min(int(h["max_tokens"]), 1 + int(h["max_items"]) * int(h["tokens_per_item"]))
    return token * (
        _BACKWARD * windows * history + size.users * history + size.items * int(h["tokens_per_item"])
    )


def _generative_work(h: dict[str, Any], size: Size) -> float:
    """Prompts of training and validation, and a beam search in which every hypothesis is a sequence."""
    inner = int(h["d_kv"]) * int(h["n_heads"])
    layer = 4 * int(h["d_model"]) * inner + 2 * int(h["d_model"]) * int(h["d_ff"])
    prompt = layer * int(h["n_layers"]) * (_PROMPT + _NAME * int(h["history"]))
    search = 2 * layer * int(h["n_layers"]) * int(h["beam"]) * _NAME
    trained, searched = h["examples"] or size.interactions, h["valid_users"] or size.users
    return float(_BACKWARD * trained * prompt + searched * (prompt + search))


def size_of(cell: CellSpec) -> Size:
    """Size of a cell's file.

    Raises
    ------
    UserError, OSError, ValueError
        It cannot be read.
    """
    dataset = cell.dataset
    return file_size(
        str(dataset.folder() / f"{dataset.name}.inter"), dataset.fields.user, dataset.fields.item
    )


@cache
def file_size(path: str, user: str, item: str) -> Size:
    """Count lines, users and items of an ``.inter`` file."""
    users, items = set(), set()
    lines = read = total = 0
    with open(path, "rb") as file:
        head = file.readline().decode("utf-8").rstrip("\r\n").split("\t")
        names = [name.split(":")[0] for name in head]
        at, to = names.index(user), names.index(item)
        for line in file:
            fields = line.split(b"\t")
            users.add(fields[at])
            items.add(fields[to])
            lines, read = lines + 1, read + len(line)
            if lines >= _LINES:
                total = file.seek(0, 2)
                break
    share = total / read if total else 1.0
    return Size(round(lines * share), round(len(users) * share), len(items))


def total(plan: Plan, guessed: dict[str, float], workers: int) -> float | None:
    """Expected wall-clock seconds of the missing cells, guesses included; ``None`` where one has neither."""
    each = [s.estimate if s.estimate is not None else guessed.get(s.cell) for s in plan.todo()]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    return max(sum(known) / max(workers, 1), max(known, default=0.0))
