"""The process beside the driver, and those who wait for it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from recbole_kd.benchmark.child import in_child
from recbole_kd.benchmark.locks import try_lock, wait_lock
from recbole_kd.errors import StoreError


def builder_of(driver: psutil.Process) -> psutil.Process:
    """The child that works, not the one that tracks resources."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in driver.children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
        time.sleep(0.05)
    raise AssertionError("no child began")


class Located(Exception):
    """Of another signature than its arguments, so that pickle cannot make it anew."""

    def __init__(self, place, line):
        super().__init__(f"{place}:{line}")


class Holding(Exception):
    """With something that cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def fail(kind, *args):
    raise {"located": Located, "holding": Holding}[kind](*args)


@pytest.mark.parametrize("kill", [psutil.Process.kill, psutil.Process.terminate])
def test_it_ends_with_the_driver(kill):
    code = "import time; from recbole_kd.benchmark.child import in_child; in_child('sleeps', time.sleep, 60)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        driver = psutil.Process(process.pid)
        child = builder_of(driver)
        time.sleep(1)  # it is in its function
        kill(driver)
    child.wait(timeout=20)


def test_results_errors_and_deaths_come_back():
    assert in_child("counts", math.gcd, 12, 18) == 6
    with pytest.raises(ZeroDivisionError):
        in_child("divides", divmod, 1, 0)
    with pytest.raises(StoreError, match="the process that aborts was killed"):
        in_child("aborts", os.abort)


@pytest.mark.parametrize(
    ("args", "said"),
    [(("located", "a.yaml", 3), "Located: a.yaml:3"), (("holding", "full"), "Holding: full")],
)
def test_errors_that_cannot_be_pickled_say_what_they_are(args, said):
    with pytest.raises(RuntimeError, match=said) as caught:
        in_child("fails", fail, *args)
    assert "in fail" in str(caught.value.__cause__)


def test_a_wait_is_announced_and_ends_when_the_owner_dies(tmp_path, capfd):
    code = (
        "import sys, time; from pathlib import Path; from recbole_kd.benchmark.locks import try_lock\n"
        "with try_lock(Path(sys.argv[1]), 'profiles') as held:\n"
        "    print(held, flush=True); time.sleep(2)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline().strip() == "True"
        with wait_lock(tmp_path, "profiles"), try_lock(tmp_path, "profiles") as again:
            assert not again
    assert "waiting for another process that holds" in capfd.readouterr().err
    with wait_lock(tmp_path, "profiles"):
        pass
    assert capfd.readouterr().err == ""
