"""The scheduler: every model sees every shard once an epoch, whatever workers and models do."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.engines.simulated import SimulatedEngine, mortal, noisy
from cerebro.errors import InternalError
from cerebro.execution.forecast import nominal_seconds
from cerebro.execution.policies import POLICIES, make_policy
from cerebro.execution.scheduler import DEATHS_MAX, Scheduler
from cerebro.messages import (
    Abandon,
    Drain,
    Launch,
    Piloted,
    Unit,
    UnitFailed,
    UnitFinished,
    WorkerJoined,
    WorkerLost,
)
from cerebro.plan.program import Program
from cerebro.plan.workload import Done, Workload
from tests.execution.workloads import workload


@dataclass
class Run:
    """A workload played to its end on a simulated engine; checks what a scheduler must never do while it goes on."""

    work: Workload
    policy: str = "longest-remaining"
    seed: int = 0
    killed_share: float = 0.0
    failed_share: float = 0.0
    drain_after: int | None = None
    """The number of finished units after which nothing more is launched."""
    finished: list[Unit] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def play(self) -> "Run":
        self.scheduler = Scheduler(self.work, make_policy(self.policy, self.work, self.seed))
        self.engine = SimulatedEngine(
            noisy(nominal_seconds(self.work), 0.1, self.seed), mortal(self.killed_share, self.failed_share, self.seed)
        )
        self.engine.open(Program(dict, Path(), self.seed), self.work.workers, lambda model: None)
        busy: dict[int, str] = {}
        while not self.scheduler.finished:
            event = self.engine.wait()
            assert event is not None, "nothing runs, and the scheduler waits for it to end"
            busy.pop(event.worker, None)
            if isinstance(event, UnitFinished):
                self.finished.append(event.unit)
            if isinstance(event, UnitFailed):
                self.failed.add(event.unit.model)
            for command in self.scheduler.handle(event):
                self.carry_out(command, busy)
            if len(self.finished) == self.drain_after:
                assert self.scheduler.handle(Drain("enough")) == []
        assert self.scheduler.running == busy == {}
        return self

    def carry_out(self, command: Launch | Abandon, busy: dict[int, str]) -> None:
        if isinstance(command, Abandon):
            self.failed.add(command.unit.model)
            return
        unit, worker = command.unit, command.worker
        assert worker not in busy, f"{command}: the worker is busy"
        assert unit.model not in busy.values(), f"{command}: the model is elsewhere"
        assert not self.work.pinned or unit.shard % self.work.workers == worker, f"{command}: the shard is elsewhere"
        busy[worker] = unit.model
        self.launches.append(command)
        self.engine.submit(command)

    def units(self, model: str) -> list[Unit]:
        return [unit for unit in self.finished if unit.model == model]


def required(work: Workload, model: str, units: list[Unit]) -> list[Unit]:
    """All units of a model in order; where the order is free, the shards are those of `units`."""
    chain = next(chain for chain in work.chains if chain.model == model)
    train, needed = [unit for unit in units if unit.kind == "train"], list[Unit]()
    for epoch in range(1, chain.epochs + 1):
        picked = [unit.shard for unit in train if unit.epoch == epoch]
        assert sorted(picked) == list(range(len(chain.train_seconds))), f"{model} in epoch {epoch}: {picked}"
        shards = chain.orders[epoch - 1] if chain.orders is not None else picked
        needed += [Unit(model, "train", epoch, position, shard) for position, shard in enumerate(shards)]
        needed += [Unit(model, "valid", epoch, shard, shard) for shard in range(len(chain.valid_seconds))]
    return needed


COSTS = st.sampled_from([1.0, 2.0, 4.0, 7.3])
WORKLOADS = st.builds(
    workload,
    st.lists(COSTS, min_size=1, max_size=6),
    shards=st.integers(1, 5),
    workers=st.integers(1, 5),
    epochs=st.integers(1, 3),
    order=st.sampled_from(["same", "latin", "free"]),
    pinned=st.booleans(),
    valid=st.lists(COSTS, max_size=3),
    seed=st.integers(0, 9),
)
POLICY_NAMES = st.sampled_from(sorted(POLICIES))
SEEDS = st.integers(0, 99)
moderately = settings(max_examples=60, deadline=None)


@moderately
@given(WORKLOADS, POLICY_NAMES, SEEDS, st.sampled_from([0.0, 0.1]))
def test_every_model_makes_all_its_visits_once_and_in_order(work, policy, seed, killed_share):
    run = Run(work, policy, seed, killed_share).play()
    for model in {chain.model for chain in work.chains} - run.failed:
        assert run.units(model) == required(work, model, run.units(model))


@moderately
@given(WORKLOADS, POLICY_NAMES, SEEDS, st.sampled_from([0.0, 0.4]))
def test_models_that_fail_leave_the_others_alone(work, policy, seed, killed_share):
    run = Run(work, policy, seed, killed_share, failed_share=0.05).play()
    assert len(run.finished) == len(set(run.finished))
    for chain in work.chains:
        units = run.units(chain.model)
        if chain.model not in run.failed:
            assert units == required(work, chain.model, units)
        elif chain.orders is not None:
            assert units == list(all_units(work, chain.model))[: len(units)]


def all_units(work: Workload, model: str) -> Iterator[Unit]:
    chain = next(chain for chain in work.chains if chain.model == model)
    assert chain.orders is not None
    for epoch, order in enumerate(chain.orders, start=1):
        yield from (Unit(model, "train", epoch, position, shard) for position, shard in enumerate(order))
        yield from (Unit(model, "valid", epoch, shard, shard) for shard in range(len(chain.valid_seconds)))


@moderately
@given(WORKLOADS, POLICY_NAMES, SEEDS, st.integers(1, 40))
def test_a_drained_run_goes_on_where_it_stopped(work, policy, seed, stop):
    before = Run(work, policy, seed, drain_after=stop).play()
    done = {chain.model: before.scheduler.done(chain.model) for chain in work.chains}
    after = Run(replace(work, done=done), policy, seed).play()
    for chain in work.chains:
        units = before.units(chain.model) + after.units(chain.model)
        assert units == required(work, chain.model, units)
        assert after.scheduler.done(chain.model) == Done(chain.epochs + 1)


@moderately
@given(WORKLOADS, POLICY_NAMES, SEEDS, st.sampled_from([0.0, 0.2]))
def test_the_same_events_give_the_same_launches(work, policy, seed, killed_share):
    one = Run(work, policy, seed, killed_share, 0.02).play()
    other = Run(work, policy, seed, killed_share, 0.02).play()
    assert one.launches == other.launches


@moderately
@given(WORKLOADS, SEEDS)
def test_in_an_order_that_is_given_policies_and_workers_decide_when_and_not_what(work, seed):
    if any(chain.orders is None for chain in work.chains):
        return
    shared = replace(work, workers=7, pinned=False)
    runs = [Run(work, "longest-remaining", seed).play(), Run(shared, "random", seed).play()]
    for chain in work.chains:
        assert runs[0].units(chain.model) == runs[1].units(chain.model)


# One event at a time.

ONE = workload([1.0], shards=2)
TWO = workload([1.0, 1.0], shards=2)


def started(work: Workload, workers: int = 1) -> tuple[Scheduler, list[Launch]]:
    scheduler = Scheduler(work, make_policy("longest-remaining", work))
    commands = [command for worker in range(workers) for command in scheduler.handle(WorkerJoined(worker))]
    return scheduler, [command for command in commands if isinstance(command, Launch)]


def ended(launch: Launch) -> UnitFinished:
    return UnitFinished(launch.unit, launch.worker, 0.0, 1.0)


def test_nothing_runs_before_a_worker_joins():
    scheduler = Scheduler(TWO, make_policy("longest-remaining", TWO))
    assert (scheduler.handle(), scheduler.finished, scheduler.idle_workers) == ([], False, ())


def test_a_worker_that_joins_late_is_used_at_once():
    scheduler, [first] = started(TWO)
    [second] = scheduler.handle(WorkerJoined(1))
    assert scheduler.running == {0: (first.unit,), 1: (second.unit,)}
    assert {first.unit.model, second.unit.model} == {"m001", "m002"}


def test_killed_worker_loses_no_unit():
    scheduler, [launch] = started(ONE)
    assert scheduler.handle(WorkerLost(0, "killed", launch.unit)) == []
    assert scheduler.handle(WorkerJoined(1)) == [Launch(launch.unit, 1)]


def test_an_idle_worker_that_dies_gets_no_unit():
    scheduler, [launch] = started(ONE, workers=2)
    assert scheduler.idle_workers == (1,)
    assert scheduler.handle(WorkerLost(1, "killed")) == []
    assert [command.worker for command in scheduler.handle(ended(launch))] == [0]


def test_the_third_worker_that_dies_on_a_unit_is_the_last():
    scheduler, launches = started(TWO)
    doomed = launches[0].unit
    while launches:
        [launch] = launches
        if launch.unit == doomed:
            given_up = scheduler.handle(WorkerLost(launch.worker, "killed by SIGKILL", launch.unit))
            launches = scheduler.handle(WorkerJoined(launch.worker))
        else:
            launches = scheduler.handle(ended(launch))
    assert given_up == [Abandon(doomed, f"{DEATHS_MAX} workers died on it, the last one: killed by SIGKILL")]
    assert (scheduler.done("m001"), scheduler.done("m002"), scheduler.finished) == (Done(), Done(2), True)


def test_deaths_on_different_units_are_not_added_up():
    deaths = Counter[Unit]()
    scheduler, commands = started(workload([1.0], shards=5), workers=1)
    while commands:
        [launch] = commands
        deaths[launch.unit] += 1
        if deaths[launch.unit] < DEATHS_MAX:
            scheduler.handle(WorkerLost(0, "killed", launch.unit))
            commands = scheduler.handle(WorkerJoined(0))
        else:
            commands = scheduler.handle(ended(launch))
    assert scheduler.finished
    assert scheduler.done("m001") == Done(2)


def test_a_unit_that_fails_ends_its_model_only():
    scheduler, [launch] = started(TWO)
    failed, other = launch.unit.model, {"m001": "m002", "m002": "m001"}[launch.unit.model]
    commands = scheduler.handle(UnitFailed(launch.unit, 0, "diverged", "loss is nan"))
    while commands:
        assert [command.unit.model for command in commands] == [other]
        commands = scheduler.handle(ended(commands[0]))
    assert (scheduler.done(failed), scheduler.done(other), scheduler.finished) == (Done(), Done(2), True)


def test_a_drained_scheduler_is_finished_when_its_units_are():
    scheduler, [launch] = started(TWO)
    assert scheduler.handle(Drain("interrupted")) == []
    assert not scheduler.finished
    assert scheduler.handle(ended(launch)) == []
    assert scheduler.finished
    assert scheduler.done(launch.unit.model) == Done(1, (launch.unit.shard,))


def test_a_workload_that_is_done_is_finished_at_once():
    scheduler, launches = started(replace(ONE, done={"m001": Done(2)}))
    assert (launches, scheduler.finished) == ([], True)


def test_a_model_goes_on_to_its_next_epoch_while_others_are_behind():
    work = workload([1.0, 9.0], shards=1, epochs=2)
    scheduler, launches = started(work, workers=2)
    quick = next(launch for launch in launches if launch.unit.model == "m001")
    assert scheduler.handle(ended(quick)) == [Launch(Unit("m001", "train", 2, 0, 0), quick.worker)]


@pytest.mark.parametrize(
    "event",
    [
        WorkerJoined(0),
        WorkerJoined(2),
        WorkerLost(0, "killed"),
        WorkerLost(1, "killed", Unit("m001", "train", 1, 0, 0)),
        UnitFinished(Unit("m001", "train", 1, 1, 1), 0, 0.0, 1.0),
        UnitFailed(Unit("m002", "train", 1, 0, 0), 1, "failed", ""),
        Piloted("m001", 0, {}),
    ],
)
def test_an_event_that_cannot_have_happened_is_an_error(event):
    scheduler, _ = started(TWO)
    with pytest.raises(InternalError):
        scheduler.handle(event)


@pytest.mark.parametrize(
    "done", [Done(1, (0, 0)), Done(1, (7,)), Done(1, (), 1), Done(1, (0, 1), 3), Done(3, (0,)), Done(1, (1,))]
)
def test_progress_that_no_chain_leads_to_is_an_error(done):
    work = workload([1.0], shards=2, epochs=2, valid=[1.0, 1.0])
    order = ((0, 1), (0, 1))
    work = replace(work, chains=(replace(work.chains[0], orders=order),), done={"m001": done})
    with pytest.raises(InternalError, match="m001 cannot go on from"):
        Scheduler(work, make_policy("random", work))
