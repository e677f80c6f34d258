"""What every test shares: one thread, no network, a clean command line, the optional data folder."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Read by the libraries when they are first imported, so set before any test imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure() -> None:
    """Imports make hundreds of thousands of objects and next to no garbage."""
    gc.disable()


def pytest_unconfigure() -> None:
    gc.enable()


def pytest_collection_finish() -> None:
    """Importing RecBole's sequential models switches anomaly detection on, for every test of the session.

    What was imported until now stays: no full garbage collection need walk torch and pandas again.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.autograd.set_detect_anomaly(False)
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _plain_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's Config parses ``sys.argv`` when it is built; pytest's options are not its business."""
    monkeypatch.setattr(sys, "argv", ["recbole_kd-tests"])


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ml-1m, ml-latest-small and amazon-beauty; the test is skipped where it is absent."""
    folder = Path(os.environ.get("RECBOLE_KD_SHARED") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no shared data sets at {folder} (set RECBOLE_KD_SHARED)")
    return folder
