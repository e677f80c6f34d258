"""Facts about the process, the code and the machine that a manifest records."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "recbole",
    "numpy",
    "pandas",
    "scipy",
    "pyarrow",
    "safetensors",
    "pydantic",
    "distributed",
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def reset_peak_memory() -> None:
    """Begin a new measurement of the peak resident memory (Linux; elsewhere the process's own peak)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float:
    """Peak resident memory since :func:`reset_peak_memory`, MB."""
    try:
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        if found:
            return int(found.group(1)) / 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**2


def reset_gpu_peak(device: str) -> None:
    """Begin a new measurement of the memory that tensors take on a GPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def gpu_peak_mb(device: str) -> float | None:
    """Peak memory of tensors on a GPU since :func:`reset_gpu_peak`, MB; ``None`` on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return round(float(torch.cuda.max_memory_allocated(device)) / 1024**2, 1)


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that numbers depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@lru_cache(maxsize=1)
def code() -> dict[str, Any]:
    """Version, git revision (``None`` outside of a checkout) and digest of the package's source."""
    from recbole_kd import __version__

    package = Path(__file__).resolve().parents[1]
    root = package.parent
    state = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        state.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    revision = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    dirty = bool(_git(root, "status", "--porcelain", "--", "recbole_kd", "profiles")) if revision else None
    return {"version": __version__, "revision": revision, "dirty": dirty, "source": state.hexdigest()[:16]}


def machine() -> dict[str, Any]:
    """Kind of machine; no host name, which says nothing about the numbers."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": usable_cores(),
    }


@lru_cache(maxsize=1)
def processor() -> str | None:
    """Model of the processor (sums are rounded otherwise on another kind); ``None`` where unknown."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def redact(text: str) -> str:
    """Replace the value of every environment variable that looks like a key; redact before you cut."""
    for name, value in os.environ.items():
        # Without the line end that a file of settings may leave: an error shows it escaped.
        secret = value.strip()
        if _SECRET.search(name) and len(secret) >= 8:
            for form in (secret, repr(secret)[1:-1]):
                text = text.replace(form, f"<{name}>")
    return text


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def visible_gpus() -> list[str]:
    """Values of ``CUDA_VISIBLE_DEVICES`` for the GPUs of this machine, found without importing torch."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = [
        str(i) for i, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))
    ]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not found:
        return found
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
