"""The four invariants hold against whatever selects units: broken policies are caught at the launch."""

import pytest

from cerebro.errors import InternalError
from cerebro.execution.invariants import Ledger
from cerebro.execution.place import Place
from cerebro.execution.policies.longest_remaining import LongestRemaining
from cerebro.execution.policy import Choice, Policy
from cerebro.execution.progress import Progress
from cerebro.execution.scheduler import Scheduler
from cerebro.messages import Launch, Unit, UnitFinished, WorkerJoined
from cerebro.plan.workload import Workload
from tests.execution.workloads import workload

FREE = workload([1.0, 1.0], shards=2, order="free", valid=[1.0, 1.0])


class Scripted(Policy):
    """Chooses what it was told, whether it may or not."""

    def __init__(self, *choices: Choice) -> None:
        self._choices = list(choices)

    def begin(self, progress: Progress) -> None: ...

    def ready(self, model: int) -> None: ...

    def choose(self) -> Choice | None:
        return self._choices.pop(0) if self._choices else None


def launched(work: Workload, *choices: Choice) -> list[Launch]:
    """What a scheduler with two workers launches first."""
    return Scheduler(work, Scripted(*choices)).handle(WorkerJoined(0), WorkerJoined(1))  # type: ignore[return-value]


def test_the_scripted_policy_may_do_what_is_right():
    first, second = launched(FREE, Choice(0, 0, 1), Choice(1, 1, 0))
    assert (first, second) == (
        Launch(Unit("m001", "train", 1, 0, 1), 0),
        Launch(Unit("m002", "train", 1, 0, 0), 1),
    )


def test_completeness_no_shard_is_visited_twice_in_an_epoch():
    scheduler = Scheduler(FREE, Scripted(Choice(0, 0, 1), Choice(0, 0, 1)))
    [launch] = scheduler.handle(WorkerJoined(0))[:1]
    with pytest.raises(InternalError, match="completeness"):
        scheduler.handle(UnitFinished(launch.unit, 0, 0.0, 1.0))


def test_completeness_there_is_no_other_shard():
    with pytest.raises(InternalError, match="completeness"):
        launched(FREE, Choice(0, 0, 2))


def test_completeness_a_given_order_is_kept():
    work = workload([1.0], shards=3)
    wrong = work.chains[0].orders[0][1]
    with pytest.raises(InternalError, match="completeness"):
        launched(work, Choice(0, 0, wrong))


def test_isolation_a_model_is_on_one_worker_at_most():
    with pytest.raises(InternalError, match="isolation"):
        launched(FREE, Choice(0, 0, 0), Choice(0, 1, 1))


def test_exclusive_access_a_worker_runs_one_unit():
    with pytest.raises(InternalError, match="exclusive access"):
        launched(FREE, Choice(0, 0, 0), Choice(1, 0, 1))


def test_exclusive_access_a_pinned_shard_is_on_its_worker():
    with pytest.raises(InternalError, match="exclusive access"):
        launched(workload([1.0], shards=2, order="free", pinned=True), Choice(0, 0, 1))


def test_a_worker_that_is_not_there_gets_no_unit():
    with pytest.raises(InternalError, match="not there"):
        launched(workload([1.0], workers=3, order="free"), Choice(0, 2, 0))


def test_non_preemption_a_unit_does_not_vanish_from_its_worker():
    ledger = Ledger(FREE)
    ledger.launch(Unit("m001", "train", 1, 0, 0), 0)
    del ledger.running[0]
    with pytest.raises(InternalError, match="non-preemption"):
        ledger.launch(Unit("m002", "train", 1, 0, 0), 0)


@pytest.mark.parametrize(
    "unit",
    [
        Unit("m001", "train", 2, 0, 0),
        Unit("m001", "train", 1, 1, 0),
        Unit("m001", "valid", 1, 0, 0),
        Unit("m001", "train", 1, 0, -1),
    ],
)
def test_completeness_no_unit_is_left_out(unit: Unit):
    with pytest.raises(InternalError, match="completeness"):
        Ledger(FREE).launch(unit, 0)


@pytest.mark.parametrize("shard", [0, 1])
def test_completeness_valid_shards_come_in_order_and_once(shard: int):
    ledger = Ledger(FREE)
    units = [Unit("m001", "train", 1, 0, 1), Unit("m001", "train", 1, 1, 0), Unit("m001", "valid", 1, 0, 0)]
    for unit in units:
        ledger.launch(unit, 0)
        ledger.end(unit, 0, happened=True)
    with pytest.raises(InternalError, match="completeness"):
        ledger.launch(Unit("m001", "valid", 1, shard, 0), 0)


def test_a_scheduler_that_loses_count_is_caught(monkeypatch: pytest.MonkeyPatch):
    """The ledger shares no books with what decides: a place that forgets its visits does not fool it."""
    monkeypatch.setattr(Place, "visit", lambda self, unit: None)
    scheduler = Scheduler(workload([1.0]), LongestRemaining())
    [launch] = scheduler.handle(WorkerJoined(0))
    with pytest.raises(InternalError, match="completeness"):
        scheduler.handle(UnitFinished(launch.unit, 0, 0.0, 1.0))
