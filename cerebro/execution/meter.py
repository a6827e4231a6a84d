"""What a run spends, compared with its budget: before it (what fits), while it runs, and from earlier runs."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from cerebro.execution.energy import KWH_JOULES, estimated_watts
from cerebro.execution.forecast import Entry, Forecast
from cerebro.messages import Event, UnitFailed, UnitFinished
from cerebro.quantities import spent_text
from cerebro.spec.budget import HOUR_SECONDS, Budget, Spent
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.spending import RunCost, run_costs

NOTHING = Spent()
_ROUNDING = 1e-9


class Energy(Protocol):
    """What counts the energy of a run."""

    is_estimate: bool

    def kwh(self) -> float:
        """Kilowatt hours since the run began."""
        ...


class Meter:
    """Adds up what a run spends, from its events and a clock; says when its budget is exhausted."""

    def __init__(
        self,
        budget: Budget | None,
        workers: int,
        units_per_epoch: int,
        earlier: Spent = NOTHING,
        clock: Callable[[], float] = time.monotonic,
        energy: Energy | None = None,
    ) -> None:
        """Begin to count; `earlier` is what earlier runs of the experiment have spent of the same budget.

        Without `energy` a limit of kWh holds for what earlier runs took alone.
        """
        self._budget, self._workers, self._units_per_epoch = budget, workers, units_per_epoch
        self._earlier, self._clock, self._energy = earlier, clock, energy
        self._begun = clock()
        self._units, self._unit_seconds = 0, 0.0
        self._trained = set[str]()

    def happened(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, UnitFinished):
            self._units += 1  # whole units are counted: sums of fractions would drift
            self._unit_seconds += event.seconds
        if isinstance(event, UnitFinished | UnitFailed):
            self._trained.add(event.unit.model)

    def this_run(self) -> Spent:
        """What this run has spent so far, without earlier ones."""
        seconds = self._clock() - self._begun
        worker_seconds = self._workers * seconds
        return Spent(
            seconds=seconds,
            worker_seconds=worker_seconds,
            unit_seconds=self._unit_seconds,
            epochs=self._units / self._units_per_epoch,
            trained=frozenset(self._trained),
            kwh=self._energy.kwh() if self._energy else None,
            kwh_is_estimate=bool(self._energy and self._energy.is_estimate),
            dollars=self._budget.dollars_of(worker_seconds) if self._budget else None,
        )

    def spent(self) -> Spent:
        """What all runs of the experiment have spent so far."""
        return self._earlier.plus(self.this_run())

    def progress(self) -> str:
        """How much is spent of each limit, as one text; nothing without a budget."""
        return self._budget.progress(self.spent()) if self._budget else ""

    def exhausted(self) -> str | None:
        """The first limit that is reached; None: go on."""
        return self._budget.over(self.spent()) if self._budget else None


def spent_before(reader: CatalogReader, budget: Budget | None, units_per_epoch: int) -> Spent:
    """What earlier runs of an experiment have spent, from its catalog.

    A run whose driver was killed has left its units and no account: its time is then that from its first unit to its
    last, and its energy is estimated.
    """
    runs = run_costs(reader, budget.price if budget else None)
    units = sum(use.units for run in runs for use in run.models.values())
    priced = [run.dollars for run in runs if run.dollars is not None]
    return Spent(
        seconds=sum(run.seconds for run in runs),
        worker_seconds=sum(run.worker_seconds for run in runs),
        unit_seconds=sum(run.unit_seconds for run in runs),
        epochs=units / units_per_epoch,
        trained=frozenset(model for run in runs for model in run.models),
        kwh=sum(_kwh(run) for run in runs),
        kwh_is_estimate=any(run.kwh is None or run.kwh_is_estimate for run in runs),
        dollars=sum(priced) if priced else None,
    )


def fits(
    budget: Budget,
    schedule: Forecast,
    workers: int,
    units_per_epoch: int,
    earlier: Spent = NOTHING,
    watts: float | None = None,
) -> str:
    """One line: what of a schedule ends within what is left of a budget.

    `budget 10m: 9 of 16 models end, 152 of 192 model-epochs fit`, or `budget 2h: all fits (38m 12s)`. Energy is
    reckoned with `watts` for all workers together, by default an estimate for CPUs; the line says which.
    """
    watts = watts or estimated_watts(workers)
    fit = _fitting(budget, schedule.entries, workers, units_per_epoch, earlier, watts)
    note = f", at {watts:g} W" if budget.kwh is not None else ""
    if len(fit) == len(schedule.entries):
        return f"budget {budget}: all fits ({spent_text(schedule.makespan_seconds)}{note})"
    models, ended = _models(schedule.entries), _models(fit)
    ends = sum(ended[model] == units for model, units in models.items())
    epochs, whole = _epochs(schedule.entries), _epochs(fit)
    complete = sum(whole[epoch] == units for epoch, units in epochs.items())
    noun = "model ends" if len(models) == 1 else "models end"
    return f"budget {budget}: {ends} of {len(models)} {noun}, {complete} of {len(epochs)} model-epochs fit{note}"


def _seconds_left(budget: Budget, workers: int, earlier: Spent, watts: float) -> float:
    """The wall time in which a run of so many workers comes to the first limit of time, dollars or kWh."""
    limits = [math.inf]
    if budget.seconds is not None:
        limits.append(budget.seconds - earlier.seconds)
    if budget.dollars is not None and budget.price is not None:
        limits.append((budget.dollars - (earlier.dollars or 0.0)) / budget.price * HOUR_SECONDS / workers)
    if budget.kwh is not None:
        limits.append((budget.kwh - (earlier.kwh or 0.0)) * KWH_JOULES / watts)
    return max(0.0, min(limits))


def _fitting(
    budget: Budget, entries: Sequence[Entry], workers: int, units_per_epoch: int, earlier: Spent, watts: float
) -> list[Entry]:
    """The units that have ended when the first limit is reached."""
    seconds = _seconds_left(budget, workers, earlier, watts) * (1 + _ROUNDING)
    ended = sorted((entry for entry in entries if entry.end <= seconds), key=lambda entry: entry.end)
    if budget.epochs is None:
        return ended
    units_left = math.floor((budget.epochs - earlier.epochs) * units_per_epoch + _ROUNDING)
    return ended[: max(0, units_left)]


def _models(entries: Sequence[Entry]) -> dict[str, int]:
    """The units of each model."""
    counts = defaultdict[str, int](int)
    for entry in entries:
        counts[entry.unit.model] += 1
    return counts


def _epochs(entries: Sequence[Entry]) -> dict[tuple[str, int], int]:
    """The units of each model in each epoch."""
    counts = defaultdict[tuple[str, int], int](int)
    for entry in entries:
        counts[entry.unit.model, entry.unit.epoch] += 1
    return counts


def _kwh(run: RunCost) -> float:
    return estimated_watts(1, run.device) * run.worker_seconds / KWH_JOULES if run.kwh is None else run.kwh
