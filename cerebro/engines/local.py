"""Worker processes on this machine: forked from a warm parent, fed through pipes, hopping through shared memory."""

import dataclasses
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from cerebro.engines.channel import Channel, ChannelClosed
from cerebro.engines.deaths import OomKills, cause_of_death
from cerebro.engines.forkserver import ForkServer, shared_fork_server
from cerebro.engines.states import States
from cerebro.errors import DataError, EngineError
from cerebro.execution.engine import Engine, Prior, Restore, StateHandle
from cerebro.messages import Event, Launch, Pilot, UnitFinished, WorkerJoined, WorkerLost, from_json, to_json
from cerebro.plan.features import Features
from cerebro.plan.program import Member, Program
from cerebro.training.transport import Slot, new_slot

_STARTS_MAX = 3
"""A worker that dies this often in a row before it joined cannot be started."""
_PROBE_BYTES = 1 << 20


@dataclass(slots=True)
class _Worker:
    """The driver's view of one worker process."""

    number: int
    server: ForkServer
    pid: int
    channel: Channel
    starts: int
    known_members: dict[str, Member]
    known_slots: set[int] = field(default_factory=set)
    known_features: Features = field(default_factory=Features)
    command: Launch | Pilot | None = None
    sources: list[StateHandle] = field(default_factory=list[StateHandle])
    """Keep the states that its units start from, which may be forgotten meanwhile."""
    targets: dict[str, Slot] = field(default_factory=dict[str, Slot])
    """Where the state of each model goes."""
    submitted: float = 0.0
    killed_for: str | None = None
    """Why the driver itself killed it, if it did."""


class LocalEngine(Engine):
    """Runs units in processes of this machine, one training thread each."""

    def __init__(self) -> None:
        self._workers: dict[int, _Worker] = {}
        self._states = States()
        self._members: dict[str, Member] = {}
        self._features = Features()
        self._events: deque[Event] = deque()
        self._selector = selectors.DefaultSelector()
        self._opened = time.monotonic()

    def open(self, program: Program, workers: int, restore: Restore) -> None:
        _raise_descriptor_limit()
        self._opened, self._restore = time.monotonic(), restore
        _check_shared_memory()
        self._oom_kills = OomKills()
        self._program, self._code = program, cloudpickle.dumps(program.build)
        self._members = dict(program.members)
        for number in range(workers):
            self._start(number, starts=1)

    def introduce(self, model: str, member: Member) -> None:
        if self._members.get(model) != member:
            self.forget(model)
            self._members[model] = member

    def prefer(self, features: Features) -> None:
        self._features = features

    def submit(self, command: Launch | Pilot, *priors: Prior) -> None:
        worker = self._workers[command.worker]
        assert worker.command is None, f"worker {worker.number} is busy"
        worker.command, worker.submitted = command, time.monotonic()
        match command:
            case Pilot(model, _, _, fellows):
                self._send(worker, (model, *fellows), {"command": to_json(command)}, [])
            case Launch():
                self._launch(worker, command, priors)

    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        if not self._events:
            for key, _ in self._selector.select(timeout_seconds):
                self._hear(key.data)
        return self._events.popleft() if self._events else None

    def state(self, model: str) -> StateHandle:
        return self._states.handle(model)

    def forget(self, model: str) -> None:
        self._states.forget(model)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.channel.close()
            if worker.command is not None:
                _kill(worker.pid)
        for worker in self._workers.values():
            if worker.server.exit_status(worker.pid, timeout_seconds=1.0) is None:
                _kill(worker.pid)
        self._workers = {}
        self._selector.close()
        self._states.close()

    def kill_worker(self, number: int, cause: str | None = None) -> None:
        self._workers[number].killed_for = cause
        _kill(self._workers[number].pid)

    def _start(self, number: int, starts: int) -> None:
        server, pid, channel = _forked()
        program = self._program
        worker = _Worker(number, server, pid, channel, starts, dict(program.members))
        self._workers[number] = worker
        self._selector.register(channel, selectors.EVENT_READ, worker)
        members = {model: member.as_json() for model, member in program.members.items()}
        device = f"cuda:{number}" if program.device == "cuda" else program.device
        setup = {
            "worker": number, "device": device, "data": str(program.data.resolve()), "program": program.settings,
            "members": members, "sys_path": sys.path, "folder": os.getcwd(),
        }  # fmt: skip
        try:
            channel.send(json.dumps(setup).encode())
            channel.send(self._code)
        except ChannelClosed:
            return  # its death is heard of by `wait`

    def _launch(self, worker: _Worker, launch: Launch, priors: tuple[Prior, ...]) -> None:
        models = [unit.model for unit in launch.units]
        found = [self._source(model) for model in models]
        worker.sources = [self._states.handle(model) for model, source in zip(models, found, strict=True) if source]
        trains = launch.unit.kind == "train"
        worker.targets = {model: self._states.take_slot() for model in models} if trains else {}
        request = {
            "command": to_json(launch),
            "sources": [(source[0].number, source[1]) if source else (0, 0) for source in found],
            "targets": [worker.targets[model].number if trains else None for model in models],
            "priors": [*priors, *[()] * (len(models) - len(priors))],
        }
        slots = [source[0] for source in found if source]
        self._send(worker, models, request, [*slots, *worker.targets.values()])

    def _source(self, model: str) -> tuple[Slot, int] | None:
        """Where the state of a model is, and its size; None: it has none yet."""
        present = self._states.present(model)
        if present is None and (state := self._restore(model)) is not None:
            return self._states.put(model, state)
        return present

    def _send(self, worker: _Worker, models: Sequence[str], request: dict[str, Any], slots: list[Slot]) -> None:
        """Send a request, and with it what this worker has not been told of: the members, the slots, the features."""
        for model in models:
            assert model in self._members, f"{model} was not introduced"
        members = {model: self._members[model] for model in models}
        unknown = {m: member.as_json() for m, member in members.items() if worker.known_members.get(m) != member}
        new = [slot for slot in slots if slot.number not in worker.known_slots]
        news: dict[str, Any] = {"new_slots": [slot.number for slot in new], "new_members": unknown}
        if worker.known_features != self._features:
            news["features"] = self._features.as_json()
        frame = json.dumps({**request, **news}).encode()
        try:
            worker.channel.send(frame, [slot.descriptor for slot in new])
        except ChannelClosed:
            return  # its death is heard of by `wait`
        worker.known_slots.update(slot.number for slot in new)
        worker.known_members.update(members)
        worker.known_features = self._features

    def _hear(self, worker: _Worker) -> None:
        """Turn what a worker says, or its silence for ever, into events."""
        try:
            reply = json.loads(worker.channel.receive()[0])
        except ChannelClosed:
            self._bury(worker)
            return
        if "error" in reply:
            raise EngineError(f"worker {worker.number} could not start: {reply['error']}\n{reply['traceback']}")
        if "damaged_data" in reply:
            raise DataError(reply["damaged_data"])
        for message, state_bytes in reply["ended"]:
            event = from_json(message)
            if isinstance(event, WorkerJoined):
                worker.starts = 0
            elif isinstance(event, UnitFinished):
                event = dataclasses.replace(event, started=worker.submitted - self._opened + event.started)
                if state_bytes:
                    self._states.replace(event.unit.model, worker.targets.pop(event.unit.model), state_bytes)
            self._events.append(event)  # type: ignore[arg-type]  # workers send events only
        self._release(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker is dead: say so, and start another in its place."""
        self._selector.unregister(worker.channel)
        worker.channel.close()
        died_of = cause_of_death(worker.server.exit_status(worker.pid), self._oom_kills)
        cause = worker.killed_for or died_of
        units = worker.command.units if isinstance(worker.command, Launch) else (None,)
        if worker.starts >= _STARTS_MAX:
            raise EngineError(f"worker {worker.number} dies whenever it starts ({cause})")
        self._release(worker)
        self._events.append(WorkerLost(worker.number, cause, units[0], units[1:]))
        self._start(worker.number, worker.starts + 1)

    def _release(self, worker: _Worker) -> None:
        worker.command = None
        for source in worker.sources:
            source.release()
        for target in worker.targets.values():
            self._states.give_back(target)
        worker.sources, worker.targets = [], {}


def _forked() -> tuple[ForkServer, int, Channel]:
    """A new worker process, and the server that forked it.

    Raises:
        EngineError: one server after another has died over it.
    """
    for _ in range(_STARTS_MAX - 1):
        server = shared_fork_server()
        with suppress(EngineError):  # the system may take the server when memory runs out, also at this moment
            return server, *server.start_worker()
    server = shared_fork_server()
    return server, *server.start_worker()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _check_shared_memory() -> None:
    """Make, write and read a slot, so that memory that cannot be had is known before anything is trained."""
    slot = new_slot(0)
    try:
        slot.room_for(_PROBE_BYTES)[:] = bytes(_PROBE_BYTES)
    finally:
        slot.close()


def _raise_descriptor_limit() -> None:
    """Every model's state is an open descriptor, and the usual soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
