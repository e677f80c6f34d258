"""How a training runs on a device: what makes it fast, and nothing that it learns from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from pydantic import Field

from recbole_kd.strict import Strict


class ExecutionSpec(Strict):
    """Settings of a device (``properties/device/<kind>.yaml``); no part of a run's address."""

    resident_steps: int = Field(ge=0, description="steps whose batches are copied at once; 0 = one by one")
    autocast: Literal["float32", "bfloat16"] = Field(description="of the backbone's products")
    tf32: bool = Field(description="float32 products on a GPU's matrix units with 10 bits of mantissa")
    compile: bool = Field(description="torch.compile of the backbone's forward and backward pass")
    cuda_graphs: bool = Field(description="replay compiled steps as CUDA graphs")
    deterministic: bool = Field(description="refuse kernels whose sums depend on the order of threads")
    eval_memory_mb: int = Field(ge=1, description="for the scores of a tile of evaluation")
    checkpoint_seconds: float = Field(
        ge=0, description="at least so long between two checkpoints of a training; 0 = none"
    )

    def precision(self, device: str) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        if self.autocast == "float32":
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)

    def of_stack(self) -> ExecutionSpec:
        """What of it holds for several students trained as one model (``training/stacked.py``).

        Their step is another one, which is not compiled; its batches are laid side by side one step at a
        time, and no checkpoints are kept.
        """
        without = {"resident_steps": 0, "compile": False, "cuda_graphs": False, "checkpoint_seconds": 0.0}
        return self.model_copy(update=without)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Settings of the process, put back on leaving."""
        products = torch.get_float32_matmul_precision()
        before = torch.are_deterministic_algorithms_enabled()
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        if self.deterministic:
            # Read when the first product runs on a GPU.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            torch.use_deterministic_algorithms(before)


def compiled(model: Any, spec: ExecutionSpec) -> None:
    """Compile the backbone of a student in place.

    Recurrent backbones are left alone: their rows have a width of their own in every step.
    """
    if not spec.compile or not model.packed:
        return
    mode = "reduce-overhead" if spec.cuda_graphs else None
    model.encode = torch.compile(model.encode, dynamic=False, mode=mode)


def plain_again(model: Any) -> None:
    """Undo :func:`compiled`, so that the student can be stored and exported."""
    vars(model).pop("encode", None)
