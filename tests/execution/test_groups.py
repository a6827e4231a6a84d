"""Models of one group make their visits in one pass where they meet, and end as if each had been alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.engines.simulated import SimulatedEngine, mortal, noisy
from cerebro.errors import InternalError
from cerebro.execution.forecast import nominal_seconds
from cerebro.execution.invariants import Ledger
from cerebro.execution.policies import POLICIES, make_policy
from cerebro.execution.scheduler import DEATHS_MAX, Scheduler
from cerebro.messages import (
    Abandon,
    Event,
    Launch,
    Unit,
    UnitFailed,
    UnitFinished,
    WorkerJoined,
    WorkerLost,
    from_json,
    to_json,
)  # fmt: skip
from cerebro.plan.program import Program
from cerebro.plan.workload import Assign, Chain, Hold, Workload
from tests.execution.workloads import workload

FOUR = workload([1.0] * 4, workers=1, groups="aaaa", valid=[1.0])


def played(work: Workload, policy: str, killed: float, failed: float, seed: int) -> tuple[dict[str, bytes], set[str]]:
    """The last state of each model that came to its end, and those that did not; checks each model's way there."""
    scheduler = Scheduler(work, make_policy(policy, work, seed))
    engine = SimulatedEngine(noisy(nominal_seconds(work), 0.1, seed), mortal(killed, failed, seed))
    engine.open(Program(dict, Path(), seed), work.workers, lambda model: None)
    finished, lost = list[Unit](), set[str]()
    while not scheduler.finished:
        events = heard(engine)
        finished += [event.unit for event in events if isinstance(event, UnitFinished)]
        lost |= {event.unit.model for event in events if isinstance(event, UnitFailed)}
        for command in scheduler.handle(*events):
            if isinstance(command, Launch):
                engine.submit(command)
            else:
                lost.add(command.unit.model)
    assert max(Counter(finished).values(), default=1) == 1, "a unit was made twice"
    return {c.model: bytes(engine.state(c.model).view()) for c in work.chains if c.model not in lost}, lost


def heard(engine: SimulatedEngine) -> list[Event]:
    event, events = engine.wait(), list[Event]()
    while event is not None:
        events.append(event)
        event = engine.wait(0)
    return events


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.sampled_from("aab-"), min_size=1, max_size=9),
    workers=st.integers(1, 3),
    shards=st.integers(1, 4),
    order=st.sampled_from(["same", "latin", "free"]),
    valid=st.sampled_from([(), (1.0,), (1.0, 2.0)]),
    policy=st.sampled_from(sorted(POLICIES)),
    shares=st.sampled_from([(0.0, 0.0), (0.1, 0.0), (0.0, 0.05), (0.1, 0.05)]),
    seed=st.integers(0, 1000),
)
def test_groups_change_no_state_and_lose_no_unit(groups, workers, shards, order, valid, policy, shares, seed):
    options = {"shards": shards, "workers": workers, "epochs": 2, "order": order, "valid": valid, "seed": seed}
    together, lost = played(workload([1.0] * len(groups), groups=groups, **options), policy, *shares, seed)
    if order == "free":  # the visits themselves are for the scheduler to choose
        assert together.keys() | lost == {f"m{number + 1:03d}" for number in range(len(groups))}
        return
    alone, lost_alone = played(workload([1.0] * len(groups), **options), policy, *shares, seed)
    assert {model: together[model] for model in together.keys() & alone.keys()} == {
        model: alone[model] for model in together.keys() & alone.keys()
    }
    if shares == (0.0, 0.0):
        assert lost == lost_alone == set()


@settings(max_examples=60, deadline=None)
@given(
    models=st.integers(1, 6),
    workers=st.integers(1, 3),
    policy=st.sampled_from(sorted(POLICIES)),
    is_pinned=st.booleans(),
    changes=st.lists(st.sampled_from(["stay", "part", "join"]), max_size=30),
    seed=st.integers(0, 1000),
)
def test_groups_that_are_parted_and_joined_under_way_change_no_state(models, workers, policy, is_pinned, changes, seed):
    options = {"shards": 3, "workers": workers, "epochs": 2, "pinned": is_pinned, "valid": (1.0,), "seed": seed}
    alone, together = (workload([1.0] * models, groups=group * models, **options) for group in "-a")
    expected, _ = played(alone, policy, 0.0, 0.0, seed)
    scheduler = Scheduler(together, make_policy(policy, together, seed))
    engine = SimulatedEngine(noisy(nominal_seconds(together), 0.1, seed))
    engine.open(Program(dict, Path(), seed), workers, lambda model: None)
    left = iter(changes)
    while not scheduler.finished:
        chains = {"part": alone.chains, "join": together.chains}.get(next(left, "stay"), ())
        dearer = (replace(chain, train_seconds=(9.0, *chain.train_seconds[1:])) for chain in chains)
        for command in scheduler.handle(*heard(engine), *map(Assign, dearer)):
            assert isinstance(command, Launch)
            engine.submit(command)
    assert {chain.model: bytes(engine.state(chain.model).view()) for chain in together.chains} == expected
    assert scheduler._progress.remaining == [0] * models
    assert scheduler._progress.worker_load == [0] * workers


def test_a_group_goes_in_one_pass_and_a_member_that_is_held_falls_out():
    scheduler = Scheduler(FOUR, make_policy("longest-remaining", FOUR))
    [launch] = scheduler.handle(WorkerJoined(0))
    assert [unit.model for unit in launch.units] == ["m001", "m002", "m003", "m004"]
    assert scheduler.running == {0: launch.units}
    ends = [UnitFinished(unit, 0, 0.0, 1.0) for unit in launch.units]
    assert scheduler.handle(*ends[:3], Hold("m002")) == []  # the pass has not ended
    [launch] = scheduler.handle(ends[3])
    assert [unit.model for unit in launch.units] == ["m001", "m003", "m004"]


def test_a_member_that_is_sent_on_later_goes_alone():
    scheduler = Scheduler(FOUR, make_policy("longest-remaining", FOUR))
    [launch] = scheduler.handle(WorkerJoined(0), Hold("m002"))
    [launch] = scheduler.handle(*(UnitFinished(unit, 0, 0.0, 1.0) for unit in launch.units), Assign(FOUR.chains[1]))
    assert [unit.model for unit in launch.units] == ["m002"]


def test_units_that_a_worker_died_on_are_made_alone_until_one_is_given_up():
    scheduler = Scheduler(FOUR, make_policy("longest-remaining", FOUR))
    [launch] = scheduler.handle(WorkerJoined(0))
    assert scheduler.handle(WorkerLost(0, "killed", launch.unit, launch.fellows)) == []
    [launch] = scheduler.handle(WorkerJoined(0))
    doomed = launch.unit
    for death in range(2, DEATHS_MAX + 1):
        assert launch.units == (doomed,)
        commands = scheduler.handle(WorkerLost(0, "killed", doomed))
        assert [type(command) for command in commands] == [Abandon] * (death == DEATHS_MAX)
        [launch] = scheduler.handle(WorkerJoined(0))
    others = set[str]()
    while len(others) < 3:
        assert launch.fellows == (), "what a worker has died on is made alone"
        others.add(launch.unit.model)
        [launch] = scheduler.handle(UnitFinished(launch.unit, 0, 0.0, 1.0))
    assert others == {"m001", "m002", "m003", "m004"} - {doomed.model}
    assert len(launch.units) == 3, "and then they meet again"


def test_one_pass_is_one_visit():
    ledger = Ledger(FOUR)
    shards = FOUR.chains[0].orders[0]
    first, other = Unit("m001", "train", 1, 0, shards[0]), Unit("m002", "train", 1, 0, shards[0])
    ledger.launch(first, 0, (other,))
    assert ledger.running == {0: (first, other)}
    chains = tuple(Chain(name, 1, (1.0, 1.0), (), None) for name in ("m001", "m002"))
    with pytest.raises(InternalError, match="one pass"):
        Ledger(Workload(chains, 1)).launch(Unit("m001", "train", 1, 0, 0), 0, (Unit("m002", "train", 1, 0, 1),))


def test_a_launch_and_a_death_keep_their_fellows_as_json():
    units = tuple(Unit(name, "train", 1, 0, 0) for name in ("m001", "m002", "m003"))
    for message in (Launch(units[0], 1, units[1:]), WorkerLost(1, "killed", units[0], units[1:])):
        assert from_json(to_json(message)) == message
