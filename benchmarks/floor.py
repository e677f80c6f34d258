"""How fast an epoch could be: operations and bytes that must be done, over the machine's measured peak.

    python -m benchmarks.floor --dataset ml-100k

Counted are the matrix products of forward and backward pass (a backward pass is two products for each)
over the positions of an epoch, the catalogue softmax included, and the bytes that cross the bus: every
product's two inputs and its output once, and the seven passes of Adam over the parameters at every step. What
lies between (LayerNorm, GELU, dropout, softmax) is left out, so the floor is low rather than high. The peaks
are those of this machine: the best of several large matrix products, and of copies larger than its caches.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.common import BACKBONES, load_split
from benchmarks.student_run import student_spec
from recbole_kd.training.spec import StudentSpec

FLOAT = 4
_ADAM_PASSES = 7
"""Read parameter, gradient and both moments, write parameter and both moments."""


@dataclass(frozen=True)
class Peak:
    """What the machine does in a second.

    Attributes
    ----------
    flops : float
        Multiplications and additions of float32 products.
    bytes : float
        Read and written by a copy.
    threads : int
    device : str
    """

    flops: float
    bytes: float
    threads: int
    device: str


@dataclass(frozen=True)
class Work:
    """What an epoch must do."""

    flops: float
    bytes: float
    positions: int
    steps: int

    def seconds(self, peak: Peak) -> float:
        """Time below which an epoch cannot be on such a machine, if products and traffic overlap."""
        return max(self.flops / peak.flops, self.bytes / peak.bytes)


def _best(run: Callable[[], Any], repeats: int, device: str) -> float:
    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    run()
    seconds = []
    for _ in range(repeats):
        wait()
        begin = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def measure_peak(device: str = "cpu", repeats: int = 5) -> Peak:
    """Measure the peaks with the threads that torch has now."""
    large = device.startswith("cuda")
    n = 8192 if large else 1024
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    flops = 2 * n**3 / _best(lambda: a @ b, repeats, device)
    size = 1 << (30 if large else 26)
    source, target = torch.ones(size // FLOAT, device=device), torch.empty(size // FLOAT, device=device)
    moved = 2 * size / _best(lambda: target.copy_(source), repeats, device)
    return Peak(flops, moved, torch.get_num_threads(), device)


def products(spec: StudentSpec, n_items: int, max_len: int) -> list[tuple[float, float, float]]:
    """Matrix products of one position's forward pass.

    Returns
    -------
    list of (multiplications and additions, floats in and out per position, floats of the weights)
    """
    h = spec.hparams
    found: list[tuple[float, float, float]] = []

    def linear(rows_in: int, rows_out: int, share: float = 1.0) -> None:
        found.append((2.0 * share * rows_in * rows_out, share * (rows_in + rows_out), rows_in * rows_out))

    if spec.model.startswith("GRU4Rec"):
        width, dim = int(h["hidden_size"]), int(h["embedding_size"])
        for layer in range(int(h["num_layers"])):
            linear(dim if layer == 0 else width, 3 * width)
            linear(width, 3 * width)
        linear(width, dim)
        share = 1.0
    else:
        dim, inner = int(h["hidden_size"]), int(h["inner_size"])
        for _ in range(int(h["n_layers"])):
            linear(dim, 3 * dim)
            found.append((2 * 2.0 * max_len * dim, 4.0 * dim, 0.0))  # scores and context of one row
            linear(dim, dim)
            linear(dim, inner)
            linear(inner, dim)
        masked = spec.model.startswith("BERT4Rec")
        share = float(h["mask_ratio"]) if masked else 1.0
        if masked:
            linear(dim, dim, share)
    # The softmax's logits need not cross the bus: blocks of them stay in the cache.
    found.append((2.0 * share * dim * n_items, share * 2 * dim, float(dim * n_items)))
    return found


def epoch_work(spec: StudentSpec, n_positions: int, n_items: int, max_len: int, n_parameters: int) -> Work:
    """Operations and bytes of an epoch in sequence mode (every interaction once)."""
    steps = -(-n_positions // (spec.train.train_batch_size * max_len))
    parts = products(spec, n_items, max_len)
    flops = 3.0 * n_positions * sum(p[0] for p in parts)
    activations = 3.0 * n_positions * sum(p[1] for p in parts)
    weights = 3.0 * steps * sum(p[2] for p in parts)
    adam = float(_ADAM_PASSES * steps * n_parameters)
    return Work(flops, FLOAT * (activations + weights + adam), n_positions, steps)


def parameters(spec: StudentSpec, n_items: int, max_len: int) -> int:
    """Number of parameters of a student."""
    from recbole_kd.models.build import build_student

    model = build_student(spec.model, spec.hparams, n_items=n_items, max_len=max_len, seed=0)
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Print the peaks and the floor of every backbone as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peak = measure_peak(args.device)
    split, max_len = load_split(args.dataset)
    n_items, n_positions = split.dataset.n_items, len(split.train.items) - len(split.train)
    result: dict[str, Any] = {"peak": asdict(peak), "dataset": args.dataset, "floor": {}}
    for model in BACKBONES:
        spec = student_spec(model, [])
        work = epoch_work(spec, n_positions, n_items, max_len, parameters(spec, n_items, max_len))
        result["floor"][model] = asdict(work) | {"seconds": work.seconds(peak)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
