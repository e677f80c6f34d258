"""What distillation and its diagnostics add to an epoch, and how many threads an epoch is best given.

    python -m benchmarks.overheads --dataset ml-100k --model SASRec

Three trainings take turns, epoch by epoch, so that what else runs on the machine burdens all alike: plain,
distilled in every epoch (random profiles for everybody: the cost does not depend on what they say), distilled
and watched. Compared are medians of CPU-seconds. Threads: wall seconds of an epoch with 1, 2, 4, ... threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.common import BACKBONES, load_split
from benchmarks.student_run import student_spec
from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.marked_yaml import load_marked, plain
from recbole_kd.benchmark.properties import find
from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.data.types import Split
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import DiagnosticsSpec, StudentSpec

WAYS = ("plain", "distilled", "watched")


def random_profiles(split: Split, dim: int, seed: int = 0) -> ProfileTable:
    """A profile of noise for every user."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((split.dataset.n_users, 1, dim)).astype(np.float32)
    mask = np.ones((split.dataset.n_users, 1), bool)
    mask[0] = False
    return ProfileTable(vectors, mask, {}, 1.0, "random", verified=False)


def distilled_spec(model: str, epochs: int) -> StudentSpec:
    """The backbone's spec with a teacher in every epoch."""
    data = plain(rooms.model_defaults(model, distilled=True))
    data["distill"] |= {"schedule": "constant", "distil_epochs": epochs}
    data["train"] |= {"epochs": epochs, "stopping_step": epochs}
    return StudentSpec.model_validate(data)


class Turns:
    """Lets several threads work one after the other, an epoch each."""

    def __init__(self, n: int) -> None:
        self._barrier, self._n, self._at = threading.Condition(), n, 0
        self._gone: set[int] = set()

    def wait(self, who: int) -> None:
        """Return when it is the turn of ``who``."""
        with self._barrier:
            self._barrier.wait_for(lambda: self._at == who)

    def done(self, who: int, *, last: bool = False) -> None:
        """Pass the turn on; ``last`` leaves the round."""
        with self._barrier:
            if last:
                self._gone.add(who)
            for step in range(1, self._n + 1):
                self._at = (who + step) % self._n
                if self._at not in self._gone:
                    break
            self._barrier.notify_all()


def take_turns(split: Split, model: str, max_len: int, epochs: int, device: str) -> dict[str, list[float]]:
    """CPU-seconds of every epoch of the three ways."""
    defaults = plain(load_marked(find("experiment", "_defaults")))
    watched = DiagnosticsSpec.model_validate(defaults["diagnostics"])
    profiles = random_profiles(split, 384)
    plain_spec = student_spec(model, [f"train.epochs={epochs}", f"train.stopping_step={epochs}"])
    taught = distilled_spec(model, epochs)
    ways: list[tuple[StudentSpec, Any, Any]] = [
        (plain_spec, None, None),
        (taught, profiles, None),
        (taught, profiles, watched.model_copy(update={"enabled": True})),
    ]
    turns = Turns(len(ways))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}

    def work(who: int) -> None:
        torch.set_num_threads(1)  # of this thread
        spec, table, diagnostics = ways[who]
        turns.wait(who)
        began = [time.thread_time()]

        def on_epoch(_: dict[str, Any]) -> None:
            seconds[WAYS[who]].append(time.thread_time() - began[0])
            turns.done(who)
            turns.wait(who)
            began[0] = time.thread_time()

        try:
            fit(
                split,
                spec,
                table,
                seed=1,
                device=device,
                max_item_list_length=max_len,
                on_epoch=on_epoch,
                diagnostics=diagnostics,
            )
        finally:
            turns.done(who, last=True)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(len(ways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def thread_seconds(split: Split, model: str, max_len: int, most: int) -> dict[int, float]:
    """Wall seconds of one epoch with 1, 2, 4, ... threads; an epoch of a part of the users is enough."""
    few = min(len(split.train), 400)
    part = replace(split.train, users=split.train.users[:few], offsets=split.train.offsets[: few + 1])
    small = replace(split, train=part)
    found = {}
    before = torch.get_num_threads()
    n = 1
    while n <= most:
        torch.set_num_threads(n)
        spec = student_spec(model, ["train.epochs=1"])
        result = fit(small, spec, None, seed=1, device="cpu", max_item_list_length=max_len)
        found[n] = result.seconds["train"]
        n *= 2
    torch.set_num_threads(before)
    return found


def best_threads(seconds: dict[int, float]) -> int:
    """The fewest threads within 5 % of the fastest: what is left is for other cells."""
    fastest = min(seconds.values())
    return min(n for n, s in seconds.items() if s <= 1.05 * fastest)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--model", choices=BACKBONES, default="SASRec")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="most that are tried")
    args = parser.parse_args()
    torch.set_num_threads(1)
    split, max_len = load_split(args.dataset)
    seconds = take_turns(split, args.model, max_len, args.epochs, args.device)
    # The first epoch pays for what is made once.
    median = {name: statistics.median(rows[1:] or rows) for name, rows in seconds.items()}
    result: dict[str, Any] = {
        "dataset": args.dataset,
        "model": args.model,
        "epoch_cpu": median,
        "distillation": median["distilled"] / median["plain"] - 1,
        "diagnostics": median["watched"] / median["distilled"] - 1,
    }
    if args.device == "cpu":
        by_threads = thread_seconds(split, args.model, max_len, args.threads)
        result |= {"seconds_by_threads": by_threads, "best_threads": best_threads(by_threads)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
