"""A Dask cluster of processes, and network namespaces to put them in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A private network that nothing else on a test machine should use.
_NET = "10.231.77"


class Cluster:
    """A scheduler and workers, each started from the command line.

    Parameters
    ----------
    workers : int
    options : str
        Further options of every worker.
    places : sequence of str
        Network namespaces of the scheduler and of each worker; empty = all on loopback.
    """

    def __init__(self, workers: int, *options: str, places: tuple[str, ...] = ()) -> None:
        self.log = ""
        self._places = places
        host = f"{_NET}.10" if places else "127.0.0.1"
        self.scheduler = self._start(
            0, "distributed.cli.dask_scheduler", "--host", host, "--port", "0", "--no-dashboard"
        )
        self.address = self._wait_for_address()
        common = (self.address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0", *options)
        self.workers = [
            self._start(1 + i, "distributed.cli.dask_worker", *common, "--no-nanny", "--name", f"w{i}")
            for i in range(workers)
        ]

    def _start(self, place: int, module: str, *arguments: str) -> subprocess.Popen[str]:
        inside = ["ip", "netns", "exec", self._places[place]] if self._places else []
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*inside, sys.executable, "-m", module, *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _wait_for_address(self) -> str:
        assert self.scheduler.stdout is not None
        for line in self.scheduler.stdout:
            self.log += line
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
            if found:
                return found.group(1)
        raise AssertionError(self.log)

    def close(self) -> None:
        """Kill every process; a namespace's ``ip`` has become the process itself."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def namespaces(count: int) -> Iterator[tuple[str, ...]]:
    """Network namespaces on one bridge, each with an address of its own and no other network.

    Raises
    ------
    OSError
        There is no ``ip``, or no right to make them; whatever was made is gone.
    """
    if shutil.which("ip") is None:
        raise OSError("needs 'ip' (Debian: iproute2)")
    tag = f"rk{os.getpid() % 100000}"
    names = tuple(f"{tag}-{i}" for i in range(count))
    try:
        _ip("link", "add", tag, "type", "bridge")
        _ip("addr", "add", f"{_NET}.1/24", "dev", tag)
        _ip("link", "set", tag, "up")
        for i, name in enumerate(names):
            outside = f"{tag}v{i}"
            _ip("netns", "add", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outside, "master", tag, "up")
            _ip("-n", name, "addr", "add", f"{_NET}.{10 + i}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)
        subprocess.run(["ip", "link", "del", tag], capture_output=True, timeout=20)
