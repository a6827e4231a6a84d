"""Whether this machine can run Cerebro."""

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cerebro.errors import CerebroError
from cerebro.quantities import bytes_text, seconds_text
from cerebro.storage.store import Store

_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str


def checks() -> Iterator[Check]:
    """Every check in turn; one that raises is reported as failed."""
    for name, check in _CHECKS.items():
        try:
            ok, found = check()
        except (CerebroError, ImportError, OSError, RuntimeError) as error:
            ok, found = False, f"{type(error).__name__}: {error}"
        yield Check(name, ok, found)


def _python() -> tuple[bool, str]:
    return sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or newer is needed)"


def _torch() -> tuple[bool, str]:
    from cerebro.training.devices import choose_device

    device, gpus = choose_device("auto")
    return True, f"{version('torch')} on {device}" + (f", {gpus} GPUs" if gpus else "")


def _cores() -> tuple[bool, str]:
    return True, f"{os.cpu_count()} cores: as many workers by default"


def _generators() -> tuple[bool, str]:
    from cerebro.training.devices import one_thread, set_threads
    from cerebro.training.fingerprint import fingerprint

    before = one_thread()
    try:
        canary = fingerprint("cpu")["canary"]
    finally:
        set_threads(before)
    return True, f"as expected; numerics canary {canary}"


def _shared_memory() -> tuple[bool, str]:
    from cerebro.training.transport import new_slot

    slot = new_slot(0)
    slot.room_for(1 << 20)[:4] = b"test"
    slot.close()
    return True, "states hop through memory"


def _workers() -> tuple[bool, str]:
    from cerebro.engines.forkserver import ForkServer

    server = ForkServer()
    try:
        started = time.perf_counter()
        server.start_worker()[1].close()
        first = time.perf_counter() - started
        started = time.perf_counter()
        server.start_worker()[1].close()
        next_one = time.perf_counter() - started
    finally:
        server.close()
    return True, f"the first starts in {seconds_text(first)}, any other in {seconds_text(next_one)}"


def _sqlite() -> tuple[bool, str]:
    return sqlite3.sqlite_version_info >= (3, 31), sqlite3.sqlite_version


def _disk() -> tuple[bool, str]:
    root = Store().root.absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return free > _FREE_BYTES and os.access(existing, os.W_OK), f"{bytes_text(free)} free at {_shown(root)}"


def _shown(path: Path) -> str:
    return os.path.relpath(path)


_CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "python": _python,
    "torch": _torch,
    "cores": _cores,
    "random generators": _generators,
    "shared memory": _shared_memory,
    "worker processes": _workers,
    "sqlite": _sqlite,
    "store": _disk,
}
