"""When a silent worker is taken for hung: far past its own times, and never before."""

from dataclasses import dataclass, field
from pathlib import Path

from cerebro.engines.simulated import SimulatedEngine
from cerebro.execution.deadlines import FACTOR, Deadlines, Late
from cerebro.execution.executor import Executor
from cerebro.execution.policies import make_policy
from cerebro.execution.scheduler import DEATHS_MAX, Scheduler
from cerebro.messages import Launch, Pilot, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import Program
from tests.execution.workloads import workload

UNIT = Unit("m001", "train", 1, 0, 0)


@dataclass
class Clock:
    """A clock that somebody sets; those who look at it do so every second."""

    deadlines: Deadlines = field(init=False)
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def late_after(self, seconds: int) -> list[Late]:
        """Who is late within so many seconds from now, watched all the time."""
        late = list[Late]()
        for _ in range(seconds):
            self.now += 1
            late += self.deadlines.late()
        return late


def clocked(nominal: float = 1.0, floor_seconds: float = 60.0) -> tuple[Clock, Deadlines]:
    clock = Clock()
    clock.deadlines = Deadlines(lambda unit: nominal, clock, floor_seconds)
    return clock, clock.deadlines


def finished(seconds: float) -> UnitFinished:
    return UnitFinished(UNIT, 0, 0.0, seconds)


def test_nothing_is_late_before_the_floor_however_short_the_units_are():
    clock, deadlines = clocked(nominal=0.01)
    deadlines.submitted(Launch(UNIT, 0))
    assert clock.late_after(60) == []
    assert clock.late_after(1) == [Late(0, "no progress for 1 min 01 s")]
    assert clock.late_after(1000) == []  # it is named once


def test_a_long_unit_has_many_times_its_planned_time():
    clock, deadlines = clocked(nominal=100)
    deadlines.submitted(Launch(UNIT, 0))
    assert clock.late_after(int(100 * FACTOR)) == []
    assert [late.worker for late in clock.late_after(1)] == [0]


def test_measured_times_count_instead_of_planned_ones():
    clock, deadlines = clocked(nominal=1000)
    for seconds in (20.0, 30.0, 10.0):
        deadlines.submitted(Launch(UNIT, 0))
        deadlines.heard(finished(seconds))
    deadlines.submitted(Launch(UNIT, 0))
    assert clock.late_after(int(30 * FACTOR)) == []
    assert [late.worker for late in clock.late_after(1)] == [0]


def test_a_unit_that_ended_is_not_late():
    clock, deadlines = clocked()
    deadlines.submitted(Launch(UNIT, 0))
    deadlines.submitted(Pilot("m002", 1, 0))
    deadlines.heard(finished(1.0))
    deadlines.heard(UnitFailed(UNIT, 1, "failed", "ValueError"))
    assert clock.late_after(10_000) == []


def test_a_unit_that_was_killed_may_take_twice_as_long_the_next_time():
    clock, deadlines = clocked()
    for allowed in (60, 120, 240):
        deadlines.submitted(Launch(UNIT, 0))
        assert clock.late_after(allowed) == []
        assert len(clock.late_after(1)) == 1
        deadlines.heard(WorkerLost(0, "no progress", UNIT))
        deadlines.heard(WorkerJoined(0))


def test_a_worker_that_never_joins_is_late():
    clock, deadlines = clocked()
    deadlines.heard(WorkerLost(0, "killed", None))
    deadlines.starting(1)
    deadlines.heard(WorkerJoined(1))
    assert [late.worker for late in clock.late_after(1000)] == [0]


def test_time_in_which_nobody_looked_does_not_count():
    """A driver that was stopped for an hour finds its workers no later than before."""
    clock, deadlines = clocked()
    deadlines.submitted(Launch(UNIT, 0))
    assert clock.late_after(50) == []
    clock.now += 3600
    assert clock.late_after(4) == []
    assert [late.worker for late in clock.late_after(10)] == [0]


class Quiet:
    """Neither records nor shows, but keeps what happened."""

    def __init__(self) -> None:
        self.events = []

    def record(self, event, state):
        self.events.append(event)
        if state is not None:
            state.release()

    def make_room(self, units): ...

    def settle(self): ...

    def written(self):
        return lambda: False

    def launched(self, launch): ...

    def happened(self, event): ...

    def ruled(self, step): ...

    def tick(self): ...


def play(fate) -> list[object]:
    """The events of a workload on a simulated engine, with a clock that goes on by a second at each look."""
    work = workload([1.0, 2.0], shards=2, workers=2, epochs=1)
    engine, log, ticks = SimulatedEngine(lambda unit: 1.0, fate), Quiet(), iter(range(1 << 20))
    engine.open(Program(dict, Path(), 0), 2, lambda model: None)
    deadlines = Deadlines(clock=lambda: next(ticks), floor_seconds=10.0)
    executor = Executor(Scheduler(work, make_policy("longest-remaining", work, 0)), engine, log, log, deadlines)
    assert executor.run([])
    return log.events


def test_a_hung_unit_is_killed_and_goes_back():
    hung = Unit("m002", "train", 1, 1, 1)
    events = play(lambda unit, attempt: "hung" if unit == hung and attempt == 0 else "finished")
    lost = [event for event in events if isinstance(event, WorkerLost)]
    assert [(event.unit, event.cause.startswith("no progress for 1")) for event in lost] == [(hung, True)]
    finished = [event.unit for event in events if isinstance(event, UnitFinished)]
    assert len(finished) == len(set(finished))
    assert hung in finished


def test_a_unit_that_hangs_for_ever_ends_its_model_alone():
    hung = Unit("m002", "train", 1, 1, 1)
    events = play(lambda unit, attempt: "hung" if unit == hung else "finished")
    assert sum(isinstance(event, WorkerLost) for event in events) == DEATHS_MAX
    failed = [event for event in events if isinstance(event, UnitFailed)]
    assert [event.unit for event in failed] == [hung]
    assert "no progress for" in failed[0].error
