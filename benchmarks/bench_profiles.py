"""Profiles per second: batched generation against a loop that asks one call at a time.

    python -m benchmarks.bench_profiles                       # 48 users, batch 16, about five minutes
    python -m benchmarks.bench_profiles --users 16 --rounds 1

SmolLM2-135M, ml-100k, the prompt of the shipped profiles, greedy decoding, the same users and weights
for both. The two take turns, so that what else runs on the machine burdens both alike. Printed are
profiles per second of wall time and per CPU-second, and how many texts are equal: in bf16 the neighbours
in a batch can change a rounding and with it a word.
Writes ``bench_profiles.json`` to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from profiles.history import train_histories
from profiles.job import ProfileJob
from profiles.llm.base import Request
from profiles.llm.local import LocalBackend


@dataclass(frozen=True)
class Speed:
    """Speed of one way to ask; ``tokens`` are answer tokens."""

    batch_size: int
    profiles: int
    tokens: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Profiles per second of wall time."""
        return self.profiles / self.wall_seconds

    @property
    def per_cpu_second(self) -> float:
        """Profiles per CPU-second."""
        return self.profiles / self.cpu_seconds


def measure(
    backend: LocalBackend, requests: Sequence[Request], batch_size: int
) -> tuple[Speed, dict[str, str]]:
    """Write all requests with one batch size; return the speed and the texts."""
    backend.spec = backend.spec.model_copy(update={"batch_size": batch_size})
    batches = backend.plan(requests)
    wall, cpu = time.perf_counter(), time.process_time()
    replies = [reply for group in backend.write(batches) for reply in group]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    tokens = sum(reply.completion_tokens for reply in replies)
    return Speed(batch_size, len(replies), tokens, seconds, cpu_seconds), {r.key: r.text for r in replies}


def total(parts: Sequence[Speed]) -> Speed:
    """Add up rounds."""
    return Speed(
        parts[0].batch_size,
        sum(p.profiles for p in parts),
        sum(p.tokens for p in parts),
        sum(p.wall_seconds for p in parts),
        sum(p.cpu_seconds for p in parts),
    )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="users are cut into so many turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    job = ProfileJob.of("ml-100k", "smollm2", options.out / "profiles")
    backend = job.author.backend
    assert isinstance(backend, LocalBackend)
    histories = train_histories(job.split)
    chosen = histories[:: max(1, len(histories) // options.users)][: options.users]
    messages = {m.digest: m for h in chosen for m in job.author.job(h).ask([h.last - 1])}
    requests = [Request(key, message) for key, message in messages.items()]
    backend.load()
    measure(backend, requests[:2], 2)  # first calls pay for allocation
    size = -(-len(requests) // options.rounds)
    alone, together, equal = [], [], 0
    for start in range(0, len(requests), size):
        turn = requests[start : start + size]
        one, single_texts = measure(backend, turn, 1)
        many, batch_texts = measure(backend, turn, options.batch_size)
        alone.append(one)
        together.append(many)
        equal += sum(single_texts[key] == batch_texts[key] for key in single_texts)
        print(
            f"{start + len(turn)}/{len(requests)} users: one at a time {one.per_second:.2f}/s, "
            f"batched {many.per_second:.2f}/s",
            flush=True,
        )
    one, many = total(alone), total(together)
    result = {
        "one_at_a_time": asdict(one),
        "batched": asdict(many),
        "speed_up_wall": many.per_second / one.per_second,
        "speed_up_cpu": many.per_cpu_second / one.per_cpu_second,
        "equal_texts": equal,
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "bench_profiles.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, speed in (("one at a time", one), (f"batch of {many.batch_size}", many)):
        print(
            f"{name:>16}: {speed.per_second:.3f} profiles/s, {speed.per_cpu_second:.3f} per CPU-second, "
            f"{speed.tokens / speed.wall_seconds:.0f} tokens/s"
        )
    print(
        f"batched is {result['speed_up_wall']:.1f} times as fast ({result['speed_up_cpu']:.1f} in "
        f"CPU-seconds); "
        f"{equal} of {one.profiles} texts are equal"
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
