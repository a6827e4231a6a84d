"""Causes of death are told apart."""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from cerebro.engines.deaths import OomKills, _counter_file, cause_of_death, is_out_of_memory
from cerebro.engines.forkserver import ForkServer, shared_fork_server
from cerebro.engines.local import LocalEngine, _forked
from cerebro.errors import EngineError
from cerebro.plan.program import Program
from cerebro.training import transport


class Rising(OomKills):
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def rose(self) -> bool:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("status", "oom", "cause"),
    [
        (-signal.SIGKILL, False, "killed by SIGKILL"),
        (-signal.SIGKILL, True, "out of memory: the system killed it (SIGKILL)"),
        (-signal.SIGSEGV, True, "killed by SIGSEGV"),
        (-40, False, "killed by signal 40"),
        (3, True, "exited with status 3"),
        (None, True, "it vanished"),
    ],
)
def test_the_cause_of_a_death(status, oom, cause):
    assert cause_of_death(status, Rising(oom)) == cause


LAYOUTS = {
    "version 2": ("0::/box\n", "box/memory.events", "low 0\noom 3\noom_kill {}\noom_group_kill 0\n"),
    "version 1": ("4:memory:/box\n0::/\n", "memory/box/memory.oom_control", "under_oom 0\noom_kill {}\n"),
    "version 1 in a container": ("4:memory:/a/b\n", "memory/memory.oom_control", "oom_kill {}\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kills_for_memory_are_counted(layout, tmp_path, monkeypatch):
    groups, name, text = LAYOUTS[layout]
    (tmp_path / "cgroup").write_text(groups)
    counter = tmp_path / "fs" / name
    counter.parent.mkdir(parents=True)
    counter.write_text(text.format(4))
    assert _counter_file(tmp_path / "cgroup", tmp_path / "fs") == counter
    monkeypatch.setattr("cerebro.engines.deaths._counter_file", lambda: counter)
    kills = OomKills()
    assert not kills.rose()
    counter.write_text(text.format(5))
    assert kills.rose()
    assert not kills.rose()


def test_where_nobody_counts_none_rose(tmp_path, monkeypatch):
    assert _counter_file(tmp_path / "none", tmp_path) is None
    monkeypatch.setattr("cerebro.engines.deaths._counter_file", lambda: None)
    assert not OomKills().rose()


def test_an_allocation_that_fails_is_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("name", "number"), [("_anonymous_file", errno.EACCES), ("_reserve", errno.ENOSPC)])
def test_shared_memory_that_cannot_be_had_is_known_when_the_engine_opens(name, number, shards, monkeypatch):
    def refuse(*arguments):
        raise OSError(number, "no")

    monkeypatch.setattr(transport, name, refuse)
    engine = LocalEngine()
    with pytest.raises(EngineError, match="shared memory"):
        engine.open(Program(dict, shards, 0), 2, lambda model: None)
    engine.close()


def test_a_fork_server_that_dies_as_it_is_asked_for_a_worker_is_replaced(monkeypatch):
    dying, alive = shared_fork_server(), ForkServer.alive
    os.kill(dying._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, dying._process.pid, os.WEXITED | os.WNOWAIT)
    looks = iter([True])  # it lived when it was last looked at
    monkeypatch.setattr(ForkServer, "alive", property(lambda server: next(looks, False) or alive.fget(server)))
    server, _, channel = _forked()
    channel.close()
    assert server is not dying
    assert server.alive


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_the_process_that_workers_are_forked_from_has_one_thread_of_its_own():
    server = ForkServer()
    try:
        pid, channel = server.start_worker()  # by then all is loaded, and was called
        threads = Path(f"/proc/{server._process.pid}/task").glob("*/comm")
        names = [thread.read_text().strip() for thread in threads]
        # That of Arrow's allocator, which sees to forks itself, is no matter.
        assert len([name for name in names if not name.startswith("jemalloc")]) == 1, names
        channel.close()
        assert server.exit_status(pid) == 0
    finally:
        server.close()
