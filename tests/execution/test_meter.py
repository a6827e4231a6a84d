"""What a run spends: counted from events and a clock, from the catalog, and reckoned before it runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cerebro.execution.energy import CPU_WORKER_WATTS, GPU_WORKER_WATTS, KWH_JOULES
from cerebro.execution.forecast import Entry, Forecast, forecast
from cerebro.execution.meter import Meter, fits, spent_before
from cerebro.execution.policies.longest_remaining import LongestRemaining
from cerebro.messages import Unit, UnitFailed, UnitFinished, WorkerLost
from cerebro.spec.budget import Budget, Spent
from tests.execution.workloads import workload
from tests.report.catalogs import create, unit_row


@dataclass
class Clock:
    """A clock that goes on when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Energy:
    """Takes a hundred watts."""

    clock: Clock
    is_estimate: bool = False

    def kwh(self) -> float:
        return (self.clock.now - 100.0) * 100.0 / KWH_JOULES


def finished(model: str = "m001", seconds: float = 2.0, position: int = 0) -> UnitFinished:
    return UnitFinished(Unit(model, "train", 1, position, position), 0, 0.0, seconds)


def test_a_meter_counts_units_models_and_the_time_of_all_workers():
    clock = Clock()
    meter = Meter(Budget(time="1h", price=3.6), 2, 4, clock=clock, energy=Energy(clock))
    for event in (finished(), finished("m002", 3.0), WorkerLost(1, "killed")):
        meter.happened(event)
    meter.happened(UnitFailed(Unit("m003", "train", 1, 0, 0), 0, "failed", "ValueError: no"))
    clock.now += 36.0
    assert meter.spent() == Spent(
        seconds=36.0,
        worker_seconds=72.0,
        unit_seconds=5.0,
        epochs=0.5,
        trained=frozenset({"m001", "m002", "m003"}),
        kwh=0.001,
        dollars=pytest.approx(0.072),  # type: ignore[arg-type]
    )
    assert meter.exhausted() is None


def test_time_is_exhausted_while_nothing_happens():
    clock = Clock()
    meter = Meter(Budget(time=60), 2, 4, clock=clock)
    clock.now += 59.9
    assert meter.exhausted() is None
    clock.now += 0.1
    assert meter.exhausted() == "time: 1m 0s of 1m"


def test_model_epochs_are_exhausted_by_the_unit_that_completes_the_last():
    meter = Meter(Budget(epochs=2), 1, 3, clock=Clock())
    for position in range(5):
        meter.happened(finished(position=position))
        assert meter.exhausted() is None
    meter.happened(finished())
    assert meter.exhausted() == "epochs: 2 of 2"


def test_thousands_of_thirds_of_an_epoch_make_whole_ones():
    meter = Meter(Budget(epochs=1000), 1, 3, Spent(epochs=1 / 3), clock=Clock())
    for _ in range(2998):
        meter.happened(finished())
        assert meter.exhausted() is None
    meter.happened(finished())
    assert meter.exhausted() == "epochs: 1000 of 1000"


def test_what_earlier_runs_spent_counts_against_the_same_budget():
    clock = Clock()
    earlier = Spent(seconds=50, worker_seconds=100, epochs=1.0, trained=frozenset({"m001"}), kwh=0.1, dollars=1.0)
    meter = Meter(Budget(time=60, price=1), 2, 2, earlier, clock, Energy(clock))
    meter.happened(finished("m001"))
    clock.now += 10
    assert meter.exhausted() == "time: 1m 0s of 1m"
    assert meter.spent().models == 1
    assert meter.spent().epochs == 1.5
    assert meter.this_run().epochs == 0.5
    assert meter.this_run().seconds == 10
    assert meter.spent().dollars == pytest.approx(1.0 + 20 / 3600)


def test_energy_that_is_estimated_is_said_to_be_when_it_ends_a_run():
    clock = Clock()
    meter = Meter(Budget(kwh=0.001), 1, 1, clock=clock, energy=Energy(clock, is_estimate=True))
    clock.now += 36
    assert meter.exhausted() == "kwh: 0.001 of 0.001 (estimated)"


def test_without_a_budget_nothing_is_ever_exhausted():
    clock = Clock()
    meter = Meter(None, 1, 1, clock=clock)
    clock.now += 1e9
    assert meter.exhausted() is None
    assert meter.spent().dollars is None
    assert meter.spent().kwh is None


def units(model: str, *positions: int) -> Iterable[Unit]:
    return (Unit(model, "train", 1, position, position) for position in positions)


def test_an_experiment_that_never_ran_has_spent_nothing(tmp_path: Path):
    before = spent_before(create(tmp_path, [{"lr": 1}]), Budget(time=1), 2)
    assert before == Spent(kwh=0.0)


def test_a_run_is_known_by_the_account_that_it_left(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}])
    catalog.add_event("user", "run started", {"run": 1, "workers": 2, "device": "cpu"})
    for index, unit in enumerate([*units("m001", 0, 1), *units("m002", 0)]):
        catalog.add_unit(unit_row(unit, run=1, worker=index % 2, started=3 * index, seconds=2.0))
    left = {"run": 1, "seconds": 10.0, "worker_seconds": 20.0, "kwh": 0.25, "kwh_is_estimate": False, "dollars": 3.0}
    catalog.add_event("engine", "spent", left)
    assert spent_before(catalog, Budget(price=1), 2) == Spent(
        seconds=10.0,
        worker_seconds=20.0,
        unit_seconds=6.0,
        epochs=1.5,
        trained=frozenset({"m001", "m002"}),
        kwh=0.25,
        dollars=3.0,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_whose_driver_was_killed_is_known_by_its_units(tmp_path: Path, device: str):
    catalog = create(tmp_path, [{"lr": 1}])
    catalog.add_event("user", "run started", {"run": 4, "workers": 3, "device": device})
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 0, 0), run=4, started=5.0, seconds=2.0))
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 1, 1), run=4, started=8.0, seconds=4.0))
    before = spent_before(catalog, Budget(price=3600), 2)
    watts = CPU_WORKER_WATTS + (GPU_WORKER_WATTS if device == "cuda" else 0)
    assert (before.seconds, before.worker_seconds, before.epochs) == (7.0, 21.0, 1.0)
    assert before.dollars == pytest.approx(21.0)
    assert before.kwh == pytest.approx(watts * 21.0 / KWH_JOULES)
    assert before.kwh_is_estimate


def test_a_killed_run_took_the_energy_that_others_take_in_its_time(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}])
    for run in (1, 2):
        catalog.add_event("user", "run started", {"run": run, "workers": 1, "device": "cpu"})
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 0, 0), run=1, seconds=5.0))
    catalog.add_event("engine", "spent", {"run": 2, "seconds": 10.0, "worker_seconds": 10.0, "kwh": 0.4})
    before = spent_before(catalog, None, 1)
    assert before.kwh == pytest.approx(0.6)
    assert before.kwh_is_estimate


@pytest.mark.parametrize(
    "body",
    [{"run": 1}, {"run": 1, "seconds": None, "kwh": "much", "dollars": -1, "worker_seconds": True}, {"seconds": 9}],
)
def test_an_account_with_gaps_is_filled_from_the_units(tmp_path: Path, body: dict[str, Any]):
    catalog = create(tmp_path, [{"lr": 1}])
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 0, 0), run=1, worker=1, seconds=2.0))
    catalog.add_event("engine", "spent", body)
    before = spent_before(catalog, None, 1)
    assert (before.seconds, before.worker_seconds, before.dollars) == (2.0, 4.0, None)


def schedule() -> Forecast:
    """Four models of two epochs of two visits, a second each, on two workers: eight seconds."""
    work = workload([1.0] * 4, shards=2, epochs=2, workers=2)
    return forecast(work, LongestRemaining())


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (Budget(time=8), "budget 8s: all fits (8s)"),
        (Budget(time=7), "budget 7s: 2 of 4 models end, 6 of 8 model-epochs fit"),
        (Budget(time=0.5), "budget 0.5s: 0 of 4 models end, 0 of 8 model-epochs fit"),
        (Budget(epochs=8), "budget 8 epochs: all fits (8s)"),
        (Budget(models=2), "budget 2 models: all fits (8s)"),
        (Budget(price=1), "budget without limit: all fits (8s)"),
        (Budget(dollars=16, price=3600), "budget $16: all fits (8s)"),
        (Budget(dollars=14, price=3600), "budget $14: 2 of 4 models end, 6 of 8 model-epochs fit"),
        (Budget(kwh=100 * 8 / KWH_JOULES), "budget 0.000222222 kWh: all fits (8s, at 100 W)"),
        (Budget(kwh=0.0001), "budget 0.0001 kWh: 0 of 4 models end, 2 of 8 model-epochs fit, at 100 W"),
        (Budget(time=7, epochs=1), "budget 7s, 1 epoch: 0 of 4 models end, 0 of 8 model-epochs fit"),
    ],
)
def test_one_line_says_what_fits(budget: Budget, line: str):
    assert fits(budget, schedule(), 2, 2, watts=100.0) == line


def test_what_earlier_runs_spent_is_no_longer_there():
    assert fits(Budget(time=10), schedule(), 2, 2, Spent(seconds=2)) == "budget 10s: all fits (8s)"
    assert fits(Budget(time=10), schedule(), 2, 2, Spent(seconds=20)).startswith(
        "budget 10s: 0 of 4 models end, 0 of 8"
    )
    assert fits(Budget(epochs=10), schedule(), 2, 2, Spent(epochs=2)) == "budget 10 epochs: all fits (8s)"
    assert fits(Budget(epochs=8), schedule(), 2, 2, Spent(epochs=2)) == (
        "budget 8 epochs: 0 of 4 models end, 4 of 8 model-epochs fit"
    )
    assert fits(Budget(dollars=20, price=3600), schedule(), 2, 2, Spent(dollars=4)) == "budget $20: all fits (8s)"


def test_a_model_that_is_alone_ends_or_does_not():
    one = Entry(Unit("m001", "train", 1, 0, 0), 0, 0.0, 2.0)
    assert fits(Budget(time=1), Forecast(2.0, 2.0, (one,)), 1, 1) == (
        "budget 1s: 0 of 1 model ends, 0 of 1 model-epochs fit"
    )


def test_where_nothing_is_left_to_do_all_fits():
    assert fits(Budget(time=1), Forecast(0.0, 0.0, ()), 1, 1, Spent(seconds=5)) == "budget 1s: all fits (0s)"
