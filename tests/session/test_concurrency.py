"""Several processes on one store: writers do not meet, and readers are in nobody's way."""

import contextlib
import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import cerebro
from cerebro.report.page import write_page
from cerebro.report.top import watch
from cerebro.session.result import Result
from cerebro.storage.store import ExperimentFolder, Store
from tests.session.gated_driver import GATES, MODELS, experiment

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_SECONDS = 90.0


def digests(result: Result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


@contextmanager
def driver(name: str, shards: Path, store: Path, says: str = "-", hears: str = "-") -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "tests.session.gated_driver", name, str(shards), str(store), says, hears]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Gates:
    """Two named pipes: what a driver says when it waits, and what lets it go."""

    says: Path
    hears: Path

    @contextmanager
    def open(self) -> Iterator[tuple[int, int]]:
        """Both pipes, for reading and writing, so that nobody waits for the other end."""
        ends = []
        for pipe in (self.says, self.hears):
            os.mkfifo(pipe)
            ends.append(os.open(pipe, os.O_RDWR))
        try:
            yield ends[0], ends[1]
        finally:
            for end in ends:
                os.close(end)


def test_a_second_run_is_refused_from_the_pilot_to_the_end(shards, tmp_path):
    store, gates = tmp_path / "store", Gates(tmp_path / "says", tmp_path / "hears")
    with gates.open() as (says, hears), driver("one", shards, store, str(gates.says), str(gates.hears)) as process:
        for _ in range(GATES):
            assert select.select([says], [], [], LIMIT_SECONDS)[0], "the driver did not come to its gate"
            assert int(os.read(says, 64)) == process.pid
            for _ in range(2):  # a process that is refused must not take the lock away
                with pytest.raises(cerebro.StoreError, match=f"is being run by process {process.pid}"):
                    experiment("one", shards).fit(engine="inline", store=store, progress=False)
            os.write(hears, b"!")
        assert process.wait(LIMIT_SECONDS) == 0
    result = Result(Store(store).experiment("one"))
    assert {row["status"] for row in result.leaderboard()} == {"finished"}


def test_two_experiments_in_one_store_give_the_bits_of_running_alone(shards, tmp_path, capsys):
    alone = {
        name: digests(experiment(name, shards).fit(engine="inline", store=tmp_path / "alone", progress=False))
        for name in MODELS
    }
    store = Store(tmp_path / "store")
    folders = {name: store.experiment(name) for name in MODELS}
    readers = {name: Readers(folder) for name, folder in folders.items()}
    with driver("one", shards, store.root) as one, driver("two", shards, store.root) as two:
        while one.poll() is None or two.poll() is None:
            for each in readers.values():
                each.read()
                with contextlib.suppress(subprocess.TimeoutExpired):  # leave the two cores to the drivers now and then
                    (one if one.poll() is None else two).wait(0.05)
        assert (one.returncode, two.returncode) == (0, 0)
    assert {name: digests(Result(folder)) for name, folder in folders.items()} == alone
    for each in readers.values():
        each.read()
        assert each.rounds > 3
        assert sorted(each.units_seen) == each.units_seen
        assert each.units_seen[-1] == 2 * 5 * len(alone[each.folder.path.name])
        each.close()


class Readers:
    """Everything that reads an experiment, again and again; one of them keeps what it saw first before its eyes."""

    def __init__(self, folder: ExperimentFolder) -> None:
        self.folder, self.rounds = folder, 0
        self.units_seen: list[int] = []
        self._lasting: sqlite3.Connection | None = None

    def read(self) -> None:
        """Once each; nothing before the experiment has begun."""
        if not self.folder.exists:
            return
        Result(self.folder).leaderboard()
        write_page(self.folder.path)
        with closing(self.folder.reader()) as reader:
            watch(reader, once=True)
            events = reader.events()
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        with closing(self._connected()) as db:
            self.units_seen.append(db.execute("SELECT count(*) FROM units").fetchone()[0])
        if self._lasting is None:  # its transaction stays open to the end
            self._lasting = self._connected()
            self._lasting.execute("BEGIN")
        self._lasting.execute("SELECT count(*) FROM units").fetchall()
        self.rounds += 1

    def close(self) -> None:
        if self._lasting is not None:
            self._lasting.close()

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.folder.path / 'catalog.sqlite'}?mode=ro", uri=True, isolation_level=None)
