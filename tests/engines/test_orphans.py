"""When the driver is killed nothing of it remains, whatever its workers are doing."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open, which Linux has")

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS, END_SECONDS = 90.0, 10.0
"""How long a test waits before it gives up; an ending takes milliseconds."""


@contextmanager
def processes(pids: list[int]) -> Iterator[dict[int, int]]:
    """A descriptor for each process, that can be read when it has ended."""
    descriptors = {os.pidfd_open(pid): pid for pid in pids}
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for_end(descriptors: dict[int, int]) -> list[int]:
    """The processes that have not ended in time; they are ended now."""
    alive, until = dict(descriptors), time.monotonic() + END_SECONDS
    while alive and (left := until - time.monotonic()) > 0:
        for ended in select.select(list(alive), [], [], left)[0]:
            del alive[ended]
    for descriptor in alive:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return list(alive.values())


def lines(pipe: int, count: int) -> list[list[int]]:
    """So many lines of numbers from a named pipe."""
    text, until = b"", time.monotonic() + START_SECONDS
    while text.count(b"\n") < count:
        assert select.select([pipe], [], [], until - time.monotonic())[0], "the workers did not begin a unit"
        text += os.read(pipe, 4096)
    return [[int(number) for number in line.split()] for line in text.decode().splitlines()]


@contextmanager
def driver(kind: str, shards: Path, folder: Path) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """A driver whose two workers are in a unit, and the process ids of all that it has started."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # for writing too, so that it never is at its end
    command = [sys.executable, "-m", "tests.engines.orphan_driver", shards, folder / "store", pipe, kind]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT)
    try:
        found = {number for line in lines(reader, 2) for number in line}
        yield process, sorted(found)
    finally:
        process.kill()
        process.wait()
        os.close(reader)


@pytest.mark.parametrize("kind", ["lock", "torch", "child"])
def test_nothing_outlives_a_killed_driver(kind: str, shards: Path, tmp_path: Path):
    with driver(kind, shards, tmp_path) as (process, pids):
        assert len(pids) == (5 if kind == "child" else 3)
        assert sum("memfd:cerebro-slot" in mapped(pid) for pid in pids) >= 2
        assert [pid for pid in pids if "/dev/shm/" in mapped(pid)] == []
        with processes(pids) as descriptors:
            process.kill()
            assert wait_for_end(descriptors) == []


def test_workers_end_with_the_server_that_forked_them(shards: Path, tmp_path: Path):
    with driver("lock", shards, tmp_path) as (_, pids):
        server = next(pid for pid in pids if children(pid))
        with processes([pid for pid in pids if pid != server]) as descriptors:
            os.kill(server, signal.SIGKILL)
            assert wait_for_end(descriptors) == []


def children(pid: int) -> list[int]:
    """The processes that a process has forked and that have not ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def mapped(pid: int) -> str:
    """What a process has in its memory; a file under /dev/shm would stay, memory without a name goes with it."""
    return Path(f"/proc/{pid}/maps").read_text()
