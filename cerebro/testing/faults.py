"""Faults on purpose: an experiment in a process of its own, killed here and there, and what must be left of it.

    undisturbed = digests(store, "signals")
    chaos = Chaos(subject, seed=7)
    chaos.run(kills=50)
    assert digests(subject.store, "signals") == undisturbed
    assert leftovers(subject.store, "signals") == [] and orphans(subject.store) == []

Everything that is drawn comes from the seed. What happens meanwhile is read from a trace, into which the driver writes
a line for each launch and each event.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from cerebro.ids import canonical_json
from cerebro.storage.store import VARIABLE, Store
from cerebro.testing.traced import main_inline

Victim = Literal["driver", "worker", "both"]

_PATIENCE_SECONDS = 120.0
_ORPHAN_SECONDS = 2.0
_WORKER = b"cerebro.engines.forkserver"


@dataclass(frozen=True, slots=True)
class Subject:
    """An experiment that a child process runs from a file."""

    file: Path
    name: str
    store: Path
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a trace: what happened, to which unit or worker, and when on the monotonic clock."""

    what: str
    unit: str
    """Of what is `Ruled`, the id of the order that was carried out."""
    worker: int
    seconds: float


@dataclass
class Driver:
    """A child process that runs an experiment, and the trace that it writes."""

    subject: Subject
    process: subprocess.Popen[str]
    trace: int
    started: float
    """When the process was started, in monotonic seconds."""
    lines: list[Line] = field(default_factory=list[Line])
    _rest: bytes = b""

    def read(self, until: int, patience_seconds: float = _PATIENCE_SECONDS) -> bool:
        """Wait until the trace has `until` lines; gives whether it came to that, or the child ended before.

        Raises:
            TimeoutError: neither happened in time.
        """
        end = time.monotonic() + patience_seconds
        while len(self.lines) < until:
            if not select.select([self.trace], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"{self.subject.name}: nothing new in the trace after {len(self.lines)} lines")
            found = os.read(self.trace, 1 << 16)
            if not found:
                return False
            *whole, self._rest = (self._rest + found).split(b"\n")
            self.lines += [_line(text) for text in whole]
        return True

    def kill(self, victim: Victim, random: Random) -> None:
        """Kill the driver, one of its workers, or the driver and all workers."""
        workers = worker_pids(self.process.pid)
        if victim == "worker":
            chosen = [random.choice(workers)] if workers else []
        else:
            chosen = [self.process.pid, *(workers if victim == "both" else [])]
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> tuple[int, str]:
        """The exit status, and what was said on the error stream; reads the trace to its end."""
        self.read(sys.maxsize)
        _, said = self.process.communicate(timeout=_PATIENCE_SECONDS)
        return self.process.returncode, said


@contextmanager
def running(subject: Subject, **environment: str) -> Iterator[Driver]:
    """The subject, run by a child process; whatever is left of it at the end is killed."""
    reader, writer = os.pipe()
    code = f"from cerebro.testing.traced import main; main({str(subject.file)!r}, {subject.workers}, {writer})"
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: str(subject.store), **environment},
        pass_fds=[writer],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    try:
        yield Driver(subject, process, reader, started)
    finally:
        os.close(reader)
        process.kill()
        process.communicate()


def run(subject: Subject, **environment: str) -> tuple[int, str]:
    """Run the subject to its end; gives the exit status, and what was said on the error stream."""
    with running(subject, **environment) as driver:
        return driver.wait()


def run_inline(subject: Subject, crash_at: str = "") -> int | None:
    """Run the subject without workers, until it dies at a crash point (`NAME` or `NAME:3`); gives the exit status.

    The child is forked from a process that has torch loaded, so that many runs take little time.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "torch._dynamo", "cerebro.testing.traced"])
    child = processes.Process(target=main_inline, args=(str(subject.file), str(subject.store), crash_at))
    child.start()
    child.join(_PATIENCE_SECONDS)
    if child.is_alive():
        child.kill()
        raise TimeoutError(f"{subject.name} did not end")
    return child.exitcode


def digests(store: Path, name: str) -> dict[str, tuple[str, str | None]]:
    """The status and the digest of the state of each model."""
    with closing(Store(store).experiment(name).reader()) as reader:
        return {row["model"]: (row["status"], row["state_digest"]) for row in reader.models()}


def decisions(store: Path, name: str) -> list[str]:
    """Everything that was decided, by whom and from what, as sorted lines of JSON.

    When a decision came into the log, or that a model was seen to have come to its end, is a matter of moments.
    """
    with closing(Store(store).experiment(name).reader()) as reader:
        found = [event for event in reader.events() if "told" in event["body"] and event["kind"] != "model finished"]
    return sorted(canonical_json([event["actor"], event["kind"], event["body"]]) for event in found)


def leftovers(store: Path, name: str) -> list[str]:
    """Files of a finished experiment that its catalog does not account for, or accounts for and that are missing."""
    folder = Store(store).experiment(name)
    with closing(folder.reader()) as reader:
        states = {f"states/{row['state_digest']}.state" for row in reader.rows("checkpoints")}
    known = states | {"lock", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"}
    found = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    return sorted((found - known) | (states - found))


def orphans(store: Path, patience_seconds: float = _ORPHAN_SECONDS) -> list[int]:
    """Processes of fork servers and workers that work for `store`, still there after some seconds."""
    end = time.monotonic() + patience_seconds
    while (left := _servants(store)) and time.monotonic() < end:
        _wait_for_end(left[0], end - time.monotonic())
    return left


def worker_pids(driver: int) -> list[int]:
    """The workers of a driver: children of its fork server."""
    return [worker for server in _children(driver) for worker in _children(server)]


@dataclass(frozen=True, slots=True)
class Segment:
    """What happened from the start of a driver to its end."""

    lines: tuple[Line, ...]
    kills: int
    ended: bool


@dataclass
class Chaos:
    """Kills a driver, its workers or both, at random moments, and starts the driver again until all is done."""

    subject: Subject
    seed: int = 0
    lines_max: int = 12
    """At most so many lines of the trace between two kills."""
    segments: list[Segment] = field(default_factory=list[Segment])
    victims: Counter[Victim] = field(default_factory=Counter["Victim"])
    left_behind: list[int] = field(default_factory=list[int])

    def run(self, kills: int) -> None:
        """Run the subject to its end, with at most so many kills on the way."""
        random = Random(self.seed)
        while not self.segments or not self.segments[-1].ended:
            with running(self.subject) as driver:
                done = self._disturb(driver, kills - self.victims.total(), random)
                status, said = driver.wait()
            ended = status == 0
            assert ended or status == -signal.SIGKILL, f"the driver ended with {status}:\n{said}"
            self.segments.append(Segment(tuple(driver.lines), done, ended))
            self.left_behind += orphans(self.subject.store)

    def _disturb(self, driver: Driver, kills: int, random: Random) -> int:
        """Kill until the driver is dead or has ended; gives the number of kills."""
        done = 0
        while done < kills:
            victim = random.choice(("driver", "worker", "both"))
            if not driver.read(len(driver.lines) + random.randint(1, self.lines_max)):
                break
            driver.kill(victim, random)
            self.victims[victim] += 1
            done += 1
            if victim != "worker":
                break
        return done

    def lost(self, what: str = "UnitFinished") -> list[int]:
        """For each driver that was killed, its units that had come so far and were launched again by a later one.

        With `Launch` also those that were running when it died.
        """
        later, counts = set[str](), list[int]()
        for segment in reversed(self.segments):
            counts.append(len({line.unit for line in segment.lines if line.what == what} & later))
            later |= {line.unit for line in segment.lines if line.what == "Launch"}
        return counts[::-1]

    def recovery_seconds(self) -> list[float]:
        """From the loss of each worker to its replacement's joining."""
        return [found for segment in self.segments for found in recoveries(segment.lines)]


def recoveries(lines: Sequence[Line]) -> list[float]:
    """Seconds from each `WorkerLost` to the `WorkerJoined` of the same worker."""
    lost: dict[int, float] = {}
    found = list[float]()
    for line in lines:
        if line.what == "WorkerLost":
            lost[line.worker] = line.seconds
        elif line.what == "WorkerJoined" and line.worker in lost:
            found.append(line.seconds - lost.pop(line.worker))
    return found


def first_launch_seconds(driver: Driver) -> float | None:
    """From the start of the driver's process, Python's own start included, to its first launch; None if it had none."""
    launches = [line.seconds for line in driver.lines if line.what == "Launch"]
    return launches[0] - driver.started if launches else None


def _line(text: bytes) -> Line:
    what, unit, worker, seconds = text.decode().split("\t")
    return Line(what, unit, int(worker), float(seconds))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _servants(store: Path) -> list[int]:
    """Live processes with our command line whose environment names `store`."""
    wanted = f"{VARIABLE}={store}".encode()
    found = list[int]()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if wanted in environment and _WORKER in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def _wait_for_end(pid: int, seconds: float) -> None:
    """Wait until a process has ended, at most so long."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            select.select([descriptor], [], [], max(0.0, seconds))
        finally:
            os.close(descriptor)
