"""The shared scan: what is read, what that costs in balance, and that memory never holds more than it may."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.engines.simulated import SHARD_BYTES, SimulatedEngine
from cerebro.errors import InternalError
from cerebro.execution.forecast import forecast, nominal_seconds
from cerebro.execution.policies import make_policy
from cerebro.execution.policies.shared_scan import LONGER_MAX, SharedScan
from cerebro.execution.residency import Residency
from cerebro.execution.scheduler import Scheduler
from cerebro.messages import Launch, Reading, Unit, UnitFinished, WorkerJoined, WorkerLost, decode, encode
from cerebro.plan.program import Program
from cerebro.plan.workload import ShardMemory, Workload
from tests.execution.test_schedules import SCHEDULES
from tests.execution.workloads import workload

COSTS = st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=1, max_size=10)


def read(work: Workload, policy: str) -> int:
    return forecast(work, make_policy(policy, work)).read_bytes


def test_many_models_read_each_shard_at_most_once_an_epoch():
    work = workload([1.0] * 16, shards=16, workers=2, epochs=3, memory=4)
    assert 16 <= read(work, "shared-scan") <= 3 * 16
    assert read(work, "random") > 3 * 16 * 4


@pytest.mark.parametrize("order", ["same", "latin", "free"])
def test_an_order_that_leaves_less_to_share_is_read_more(order):
    work = workload([1.0] * 8, shards=8, workers=2, order=order, memory=2)
    most = {"same": 8, "free": 12, "latin": 64}
    assert 8 <= read(work, "shared-scan") <= most[order]


def test_data_that_fit_are_read_once_by_every_policy():
    work = workload([1.0, 3.0, 2.0], shards=4, workers=2, epochs=3, valid=[1.0], memory=5)
    assert {read(work, policy) for policy in ("longest-remaining", "shared-scan", "random")} == {5}


def test_data_that_fit_are_scheduled_as_if_there_were_no_limit():
    work = workload([1.0, 3.0, 2.0], shards=4, workers=2, memory=4)
    scan, default = (forecast(work, make_policy(name, work)) for name in ("shared-scan", "longest-remaining"))
    assert scan == default


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_balance_is_kept_on_the_golden_workloads(path):
    fields = dict(
        part.split(" ", 1)
        for line in path.read_text().partition("\n---\n")[0].splitlines()
        for part in line.split("  ")
    )
    shards, workers = int(fields["shards"]), int(fields["workers"])
    work = workload([float(cost) for cost in fields["seconds"].split()], shards=shards, workers=workers, memory=workers)
    default, scan = (forecast(work, make_policy(name, work)) for name in ("longest-remaining", "shared-scan"))
    assert scan.makespan_seconds <= LONGER_MAX * default.makespan_seconds
    assert scan.read_bytes <= default.read_bytes


@settings(max_examples=60, deadline=None)
@given(COSTS, st.integers(1, 6), st.integers(1, 3), st.integers(0, 3), st.sampled_from(["same", "latin", "free"]))
def test_a_scan_never_reads_more_nor_takes_much_longer(costs, shards, workers, more, order):
    work = workload(costs, shards=shards, workers=workers, epochs=2, order=order, valid=[1.0], memory=workers + more)
    default, scan = (forecast(work, make_policy(name, work)) for name in ("longest-remaining", "shared-scan"))
    assert scan.read_bytes <= default.read_bytes
    assert scan.makespan_seconds <= LONGER_MAX * default.makespan_seconds
    assert scan.read_bytes >= min(shards + 1, len(costs) * (shards + 1))


@settings(max_examples=60, deadline=None)
@given(COSTS, st.integers(1, 6), st.integers(1, 3), st.integers(0, 3), st.booleans(), st.booleans())
def test_what_is_held_is_what_the_launches_say(costs, shards, workers, more, leaders, loosely):
    """Books of its own: no shard is used that was not read, and never more of them than the limit."""
    limit = workers + more
    work = workload(costs, shards=shards, workers=workers, epochs=2, valid=[1.0], memory=limit)
    scheduler, held = Scheduler(work, SharedScan(leaders=leaders, loosely=loosely)), set[tuple[str, int]]()
    running = list[Launch]()
    commands = scheduler.handle(*(WorkerJoined(worker) for worker in range(workers)))
    while commands or running:
        for launch in commands:
            assert isinstance(launch, Launch)
            assert launch.reading is not None
            place = (launch.unit.kind, launch.unit.shard)
            assert not {(other.unit.kind, other.unit.shard) for other in running} & set(launch.reading.drops)
            held -= set(launch.reading.drops)
            assert launch.reading.anew == (place not in held)
            held.add(place)
            assert len(held) <= limit
            running.append(launch)
        first = running.pop(0)
        commands = scheduler.handle(UnitFinished(first.unit, first.worker, 0.0, 1.0))
    assert scheduler.finished


def test_the_simulated_engine_counts_what_was_forecast():
    work = workload([1.0, 2.0, 1.0, 1.0], shards=6, workers=2, epochs=2, memory=3)
    engine, total = SimulatedEngine(nominal_seconds(work)), 0
    scheduler = Scheduler(work, make_policy("shared-scan", work))
    engine.open(Program(build=dict, data=".", seed=0), 2, lambda model: None)
    while (event := engine.wait()) is not None:
        total += event.read_bytes if isinstance(event, UnitFinished) else 0
        for command in scheduler.handle(event):
            engine.submit(command)
    assert scheduler.finished
    assert total == read(work, "shared-scan") * SHARD_BYTES


def test_a_shard_is_read_again_where_its_reader_died():
    work = workload([1.0, 1.0], shards=2, workers=1, memory=2)
    scheduler = Scheduler(work, make_policy("shared-scan", work))
    (first,) = scheduler.handle(WorkerJoined(0))
    assert first.reading == Reading(anew=True)
    scheduler.handle(WorkerLost(0, "killed", first.unit))
    (again,) = scheduler.handle(WorkerJoined(0))
    assert again.unit.shard == first.unit.shard
    assert again.reading == first.reading


def test_more_in_use_than_the_limit_is_our_mistake():
    residency = Residency(ShardMemory((3, 3), (), 4))
    residency.enter("train", 0)
    with pytest.raises(InternalError, match="the shards in use take 6 bytes, and memory may hold 4"):
        residency.enter("train", 1)


def test_a_launch_crosses_a_pipe_with_its_reading():
    launch = Launch(Unit("m001", "train", 1, 0, 2), 0, reading=Reading(True, (("train", 1), ("valid", 0)), False))
    assert decode(encode(launch)) == launch
    assert decode(encode(replace(launch, reading=None))) == replace(launch, reading=None)
