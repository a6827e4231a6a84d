"""An engine without processes, time or training: a virtual clock, and states that tell how they came about.

A first-class back end for tests and forecasts: it runs years of training in seconds, kills workers on demand, and its
states are hashes of all visits in order, so that a unit lost, doubled or swapped shows in the bytes.
"""

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from cerebro.errors import EngineError
from cerebro.execution.engine import BytesHandle, Engine, Prior, Restore, StateHandle
from cerebro.messages import Event, Launch, Pilot, Piloted, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import Member, Program
from cerebro.streams import stream_bytes

Fate = Literal["finished", "failed", "killed", "hung"]
"""What becomes of a unit: `killed` takes its worker with it, halfway; `hung` never ends."""

ROWS = 100
"""Rows of every shard."""
BATCH_SIZE = 10
SHARD_BYTES = 1000


class SimulatedEngine(Engine):
    """Runs units on a virtual clock that jumps from event to event; `wait` never waits.

    `seconds` gives how long a unit takes, and `fate` what becomes of its n-th attempt (from 0).
    """

    def __init__(
        self, seconds: Callable[[Unit], float], fate: Callable[[Unit, int], Fate] = lambda unit, attempt: "finished"
    ) -> None:
        self.now = 0.0
        """Virtual seconds since the engine opened."""
        self._seconds, self._fate = seconds, fate
        self._events: list[tuple[float, int, tuple[Event, ...]]] = []
        """What will happen: when, in which order, and all that happens then on one worker."""
        self._told = deque[Event]()
        """What has happened, and `wait` has not given yet."""
        self._count = 0
        self._commands: dict[int, Launch | Pilot | None] = {}
        self._attempts: dict[Unit, int] = {}
        self._states: dict[str, bytes] = {}
        self._members: dict[str, Member] = {}

    def open(self, program: Program, workers: int, restore: Restore) -> None:
        self._program, self._restore, self._members = program, restore, dict(program.members)
        for worker in range(workers):
            self._say(0.0, WorkerJoined(worker, {"engine": "simulated"}))

    def introduce(self, model: str, member: Member) -> None:
        if self._members.get(model) != member:
            self.forget(model)
            self._members[model] = member

    def submit(self, command: Launch | Pilot, *priors: Prior) -> None:
        worker = command.worker
        if worker not in self._commands or self._commands[worker] is not None:
            raise EngineError(f"worker {worker} is not idle")
        self._commands[worker] = command
        if isinstance(command, Pilot):
            self._say(0.0, Piloted(command.model, worker, self._profile(command)))
        else:
            self._run(command, priors)

    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        """The next event, at once, as the clock is virtual; None if nothing was submitted."""
        if not self._told:
            if not self._events or (timeout_seconds == 0 and self._events[0][0] > self.now):
                return None
            self.now, _, events = heapq.heappop(self._events)
            self._told.extend(events)
        event = self._told.popleft()
        match event:
            case WorkerJoined(worker):
                self._commands[worker] = None
            case WorkerLost(worker):
                self._commands.pop(worker, None)
                self._say(0.0, WorkerJoined(worker, {"engine": "simulated"}))
            case UnitFinished(unit, worker):
                self._commands[worker] = None
                del self._attempts[unit]  # it has happened: there is no other attempt
                if unit.kind == "train":
                    self._states[unit.model] = state_after(self._parent(unit), unit)
            case _:
                self._commands[event.worker] = None
        return event

    def state(self, model: str) -> StateHandle:
        return BytesHandle(self._states[model])

    def forget(self, model: str) -> None:
        self._states.pop(model, None)

    def close(self) -> None:
        self._events.clear()
        self._told.clear()
        self._commands.clear()
        self._states.clear()

    def kill_worker(self, number: int, cause: str = "killed") -> None:
        command = self._commands.get(number)
        self._events = [item for item in self._events if item[2][0].worker != number]
        heapq.heapify(self._events)
        units = command.units if isinstance(command, Launch) else (None,)
        self._say(0.0, WorkerLost(number, cause, units[0], units[1:]))

    def _run(self, launch: Launch, priors: tuple[Prior, ...]) -> None:
        """The pass takes as long as all of its units; one that kills its worker, or hangs, takes all with it."""
        worker, units = launch.worker, launch.units
        fates: list[Fate] = [self._fate(unit, self._attempts.get(unit, 0)) for unit in units]
        for unit in units:
            self._attempts[unit] = self._attempts.get(unit, 0) + 1
        seconds = sum(map(self._seconds, units))
        if "killed" in fates:
            self._say(seconds / 2, WorkerLost(worker, "killed by the simulation", launch.unit, launch.fellows))
        elif "hung" not in fates:
            ended = zip(units, fates, [*priors, *[()] * len(units)], strict=False)  # priors may be left out
            events = [self._end(unit, worker, fate, prior, unit != units[-1]) for unit, fate, prior in ended]
            if launch.reading is not None and launch.reading.anew and isinstance(events[0], UnitFinished):
                events[0] = replace(events[0], read_bytes=SHARD_BYTES)
            self._say(seconds, *events)

    def _end(self, unit: Unit, worker: int, fate: Fate, prior: Prior, more: bool) -> Event:
        if fate == "failed":
            return UnitFailed(unit, worker, "failed", "SimulatedError: this unit was to fail")
        state, seconds = self._parent(unit), self._seconds(unit)
        partials = {"loss": {"sum": _loss(state, unit) * ROWS, "rows": ROWS}}
        values = {"loss": _mean([*prior, partials])}
        moved = len(state) * (2 if unit.kind == "train" else 1)
        return UnitFinished(unit, worker, self.now, seconds, ROWS, partials, values, moved_bytes=moved, more=more)

    def _say(self, seconds: float, *events: Event) -> None:
        """Let `events` happen in so many seconds; those of the same moment happen in the order they were said."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, events))

    def _parent(self, unit: Unit) -> bytes:
        """The state that a unit starts from."""
        state, ancestor = self._state(unit.model), self._member(unit.model).ancestor
        if ancestor is None or ancestor.optimizer == "keep" or not ancestor.is_adopted_by(unit):
            return state
        return without_optimizer(state)

    def _state(self, model: str) -> bytes:
        """The present state of a model; it keeps what `restore` gave, to be asked once."""
        if model not in self._states:
            initial = initial_state(self._program, model, self._member(model).repeat)
            self._states[model] = self._restore(model) or initial
        return self._states[model]

    def _member(self, model: str) -> Member:
        """A member; those that nobody has told of have no config, which matters little here."""
        return self._members.get(model) or Member({})

    def _profile(self, pilot: Pilot) -> dict[str, Any]:
        described: dict[str, Any] = {
            "signature": pilot.model,
            "architecture": "Simulated",
            "parameters": 8,
            "optimizer": "Hash",
            "batch_size": BATCH_SIZE,
            "eval_batch_size": BATCH_SIZE,
            "drop_last": False,
            "metrics": ["loss"],
        }
        if not pilot.batches:
            return described
        batches = ROWS / BATCH_SIZE
        times = {
            "state_bytes": 32,
            "train_batch_seconds": self._seconds(Unit(pilot.model, "train", 1, 0, 0)) / batches,
            "valid_batch_seconds": self._seconds(Unit(pilot.model, "valid", 1, 0, 0)) / batches,
            "peak_bytes": 1 << 20,
            "impure_tensor": None,
        }
        return described | times


def initial_state(program: Program, model: str, repeat: int = 0) -> bytes:
    """The state that a model starts from: its name, the seed and the repeat."""
    return hashlib.sha256(f"{program.seed} {model} {repeat}".encode()).digest()


def without_optimizer(state: bytes) -> bytes:
    """The state of an ancestor as a clone that resets the optimizer starts from it."""
    return hashlib.sha256(state + b"reset").digest()


def state_after(parent: bytes, unit: Unit) -> bytes:
    """The state after a train unit: a hash of the one before and the visit."""
    return hashlib.sha256(parent + f"{unit.epoch} {unit.position} {unit.shard}".encode()).digest()


def noisy(seconds: Callable[[Unit], float], share: float, seed: int = 0) -> Callable[[Unit], float]:
    """Durations that differ from `seconds` by up to `share` of them, the same for a unit whenever it is asked."""
    return lambda unit: seconds(unit) * (1 + share * (2 * _draw(seed, "seconds", unit) - 1))


def mortal(killed_share: float, failed_share: float = 0.0, seed: int = 0) -> Callable[[Unit, int], Fate]:
    """Fates where so many of all attempts kill their worker, and so many fail."""

    def fate(unit: Unit, attempt: int) -> Fate:
        drawn = _draw(seed, f"fate {attempt}", unit)
        return "killed" if drawn < killed_share else "failed" if drawn < killed_share + failed_share else "finished"

    return fate


def _draw(seed: int, what: str, unit: Unit) -> float:
    """A number from 0 to 1 that depends on its arguments alone."""
    key = (seed, what, unit.model, unit.kind, unit.epoch, unit.position, unit.shard)
    return int.from_bytes(stream_bytes(key, 6), "little") / (1 << 48)


def _loss(state: bytes, unit: Unit) -> float:
    digest = hashlib.sha256(state + f"{unit.kind} {unit.shard}".encode()).digest()
    return int.from_bytes(digest[:6], "little") / (1 << 48)


def _mean(partials: list[Any]) -> float:
    losses = [partial["loss"] for partial in partials]
    return math.fsum(loss["sum"] for loss in losses) / sum(loss["rows"] for loss in losses)
