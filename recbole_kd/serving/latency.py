"""``serve-latency``: plain and distilled students side by side, as torch modules and as exported.

One round serves the same batch once with every system, in an order drawn anew, so that whatever else
the machine does falls on all of them alike. What is compared is a student with the plain backbone *in the
same form*; between forms the implementation differs too.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import UserError
from recbole_kd.serving.cost import n_parameters, request_flops
from recbole_kd.serving.export import TARGETS, Score
from recbole_kd.serving.student import Scorer, Trained, requests

EAGER = "torch"
FORMS = (EAGER, *TARGETS)
_WARM_UP = 3


@dataclass(frozen=True)
class System:
    """One student in one form.

    Attributes
    ----------
    group : str
        Systems that are compared with one another: dataset and backbone.
    name, form : str
    is_reference : bool
        The others of the same group and form are compared with it.
    """

    group: str
    name: str
    form: str
    is_reference: bool
    trained: Trained
    score: Score


@dataclass(frozen=True)
class Latency:
    """Times of one system at one batch size, in milliseconds per call."""

    group: str
    name: str
    form: str
    batch: int
    rounds: int
    p50: float
    p95: float
    p99: float
    ratio: float | None
    parameters: int
    flops: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_systems(students: Sequence[tuple[Trained, str, bool]], forms: Sequence[str]) -> list[System]:
    """Every student in every form; exports go through files, as they would to a server.

    Parameters
    ----------
    students : sequence of (Trained, group, is_reference)
    forms : sequence of str
        Of ``FORMS``.

    Raises
    ------
    UserError
        Unknown form.
    """
    made = []
    with tempfile.TemporaryDirectory(prefix="recbole_kd-") as scratch:
        for number, (trained, group, is_reference) in enumerate(students):
            for form in forms:
                if form not in FORMS:
                    raise UserError(f"--forms {form}: no such form{did_you_mean(form, FORMS)}")
                score: Score = Scorer(trained.model)
                if form != EAGER:
                    path = Path(scratch) / f"{number}-{TARGETS[form].file}"
                    TARGETS[form].write(trained, path)
                    score = TARGETS[form].load(trained, path)
                made.append(System(group, trained.label, form, is_reference, trained, score))
    return made


def history_lengths(trained: Trained) -> NDArray[np.int32]:
    """Lengths of the histories that the run was tested on, int32 [N]."""
    import pyarrow.parquet as pq

    table = pq.read_table(trained.run / "ranks.parquet", columns=["split", "history_len"])
    split = np.asarray(table["split"].cast("string"))
    lengths: NDArray[np.int32] = table["history_len"].to_numpy()[split == "test"]
    return lengths


@torch.inference_mode()
def measure(systems: Sequence[System], batch: int, rounds: int, seed: int = 0) -> list[Latency]:
    """Time every system on the same requests, interleaved.

    Parameters
    ----------
    systems : sequence of System
    batch : int
        Users per call. Histories have the lengths of the run's test users; items are random.
    rounds : int
        Calls per system, after some to warm up.

    Returns
    -------
    list of Latency
        In the order of ``systems``.
    """
    draw = np.random.default_rng(seed)
    lengths = {s.group: history_lengths(s.trained) for s in systems if s.is_reference}
    times = np.empty((rounds, len(systems)))
    was_on = gc.isenabled()
    gc.disable()
    try:
        for number in range(-_WARM_UP, rounds):
            given = {}
            for system in systems:
                if system.group not in given:
                    picked = draw.choice(lengths[system.group], batch)
                    given[system.group] = requests(
                        system.trained.n_items, system.trained.max_len, picked, number + _WARM_UP
                    )
            for place in draw.permutation(len(systems)):
                system = systems[place]
                begin = time.perf_counter_ns()
                system.score(*given[system.group])
                times[max(number, 0), place] = time.perf_counter_ns() - begin
            gc.collect(0)
    finally:
        if was_on:
            gc.enable()
    return _summary(systems, times / 1e6, batch)


def _summary(systems: Sequence[System], times: NDArray[np.float64], batch: int) -> list[Latency]:
    p50, p95, p99 = np.percentile(times, [50, 95, 99], axis=0)
    reference = {(s.group, s.form): p50[i] for i, s in enumerate(systems) if s.is_reference}
    rows = []
    for i, s in enumerate(systems):
        base = None if s.is_reference else reference.get((s.group, s.form))
        rows.append(
            Latency(
                s.group,
                s.name,
                s.form,
                batch,
                len(times),
                float(p50[i]),
                float(p95[i]),
                float(p99[i]),
                None if base is None else float(p50[i] / base),
                n_parameters(s.trained.model),
                request_flops(Scorer(s.trained.model), s.trained.n_items, s.trained.max_len),
            )
        )
    return rows
