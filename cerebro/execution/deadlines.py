"""When a worker has been silent for too long: a fold over commands and events, on a clock that is passed in.

A hang is a unit far past its own measured times, never a missed heartbeat: a call that holds Python's lock for
seconds is silent and well. Time counts only while somebody looks: a driver that was itself stopped, or a machine that
slept, comes back to workers that are no later than before.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cerebro.messages import Event, Launch, Pilot, Unit, UnitFinished, WorkerLost
from cerebro.quantities import seconds_text

FLOOR_SECONDS = 60.0
"""Nothing is taken for a hang sooner."""
FACTOR = 10.0
"""How often the longest time so far a unit may take."""
_UNKNOWN_FACTOR = 5.0
"""How often the floor anything may take whose time nobody knows: to start a worker, to build a model."""
_LOOK_SECONDS = 5.0
"""Between two looks at most so much time has passed, whatever the clock says."""


@dataclass(frozen=True, slots=True)
class Late:
    """A worker that is past its deadline."""

    worker: int
    cause: str


@dataclass(slots=True)
class _Wait:
    """What a worker was asked (None: to start), since when and how long it may take, in watched seconds."""

    command: Launch | Pilot | None
    since: float
    allowed: float


class Deadlines:
    """Knows what each worker is doing, and when it has had time enough.

    `nominal` gives the planned seconds of a unit; measured times of its model and kind, once there are any, count
    instead. A unit that was killed for its lateness may take twice as long the next time.
    """

    def __init__(
        self,
        nominal: Callable[[Unit], float] = lambda unit: 0.0,
        clock: Callable[[], float] = time.monotonic,
        floor_seconds: float | None = None,
    ) -> None:
        self._nominal, self._clock = nominal, clock
        self._floor = FLOOR_SECONDS if floor_seconds is None else floor_seconds
        self._waits: dict[int, _Wait] = {}
        self._slowest: dict[tuple[str, str], float] = {}
        self._kills: Counter[Unit] = Counter()
        self._last_look, self._watched = clock(), 0.0

    def starting(self, worker: int) -> None:
        """A worker was started, and is to join."""
        self._begin(worker, None, self._floor * _UNKNOWN_FACTOR)

    def submitted(self, command: Launch | Pilot) -> None:
        """A worker was given something to do."""
        self._begin(command.worker, command, self._allowed(command))

    def heard(self, event: Event) -> None:
        """A worker said something, or died and is started again."""
        self._waits.pop(event.worker, None)
        match event:
            case WorkerLost(worker):
                self.starting(worker)
            case UnitFinished(unit, _, _, seconds):
                kind = (unit.model, unit.kind)
                self._slowest[kind] = max(seconds, self._slowest.get(kind, 0.0))
                self._kills.pop(unit, None)
            case _:
                pass

    def late(self) -> list[Late]:
        """The workers to be killed now; each is named once for what it does."""
        now = self._now()
        late = list[Late]()
        for worker, wait in list(self._waits.items()):
            if now - wait.since > wait.allowed:
                del self._waits[worker]
                late.append(Late(worker, f"no progress for {seconds_text(now - wait.since)}"))
                if isinstance(wait.command, Launch):
                    self._kills.update(wait.command.units)
        return late

    def _begin(self, worker: int, command: Launch | Pilot | None, allowed: float) -> None:
        self._waits[worker] = _Wait(command, self._now(), allowed)

    def _allowed(self, command: Launch | Pilot) -> float:
        if isinstance(command, Pilot):
            return self._floor * _UNKNOWN_FACTOR
        expected = sum(self._slowest.get((unit.model, unit.kind)) or self._nominal(unit) for unit in command.units)
        return max(self._floor, FACTOR * expected) * 2 ** max(self._kills[unit] for unit in command.units)

    def _now(self) -> float:
        """Seconds that were watched so far."""
        now = self._clock()
        self._watched += min(now - self._last_look, _LOOK_SECONDS)
        self._last_look = now
        return self._watched
