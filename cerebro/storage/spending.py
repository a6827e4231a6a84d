"""What each run of an experiment has cost, as far as its catalog can tell: an account that budget and bill share."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.storage.catalog import CatalogReader

STARTED, SPENT = "run started", "spent"
"""The kinds of the events that say what a run was given, and what it had cost at its end."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What one model took of one run, in units that ended well and are kept."""

    seconds: float = 0.0
    units: int = 0


@dataclass(frozen=True, slots=True)
class RunCost:
    """What one run has cost."""

    run: int
    device: str
    seconds: float
    """Wall time."""
    worker_seconds: float
    """Workers times wall time."""
    models: Mapping[str, ModelUse] = field(default_factory=dict[str, ModelUse])
    kwh: float | None = None
    """None: it was not recorded, as when the driver was killed."""
    kwh_is_estimate: bool = False
    dollars: float | None = None
    """None: no price is known."""

    @property
    def unit_seconds(self) -> float:
        """The seconds in which workers ran units that are kept."""
        return sum(use.seconds for use in self.models.values())

    def dollars_of(self, seconds: float) -> float | None:
        """What so many seconds of one worker cost in this run."""
        return None if self.dollars is None else self._share(seconds) * self.dollars

    def kwh_of(self, seconds: float) -> float | None:
        """The energy that so many seconds of one worker took in this run."""
        return None if self.kwh is None else self._share(seconds) * self.kwh

    def _share(self, seconds: float) -> float:
        return seconds / self.worker_seconds if self.worker_seconds else 0.0


def run_costs(reader: CatalogReader, price: float | None = None) -> list[RunCost]:
    """What each run that trained anything has cost, oldest first.

    A run whose driver was killed has left no account: its wall time is then that from its first unit to its last, and
    its energy what other runs on such a device took in the same time, if there are any.
    `price`, in dollars for an hour of one worker, counts where a run says nothing of its own; by default that is the
    newest price that any run was given.
    """
    started, spent = _bodies(reader, STARTED), _bodies(reader, SPENT)
    price = known_price(reader) if price is None else price
    uses: dict[int, list[dict[str, Any]]] = {number: [] for number in spent}
    for row in reader.query(
        "SELECT run, model, COUNT(*) AS units, SUM(seconds) AS seconds, MAX(worker) + 1 AS workers, "
        "MIN(started) AS begun, MAX(started + seconds) AS ended FROM units GROUP BY run, model"
    ):
        uses.setdefault(row["run"], []).append(row)
    return _with_energy(
        [
            _run_cost(number, rows, started.get(number, {}), spent.get(number, {}), price)
            for number, rows in sorted(uses.items())
        ]
    )


def known_price(reader: CatalogReader) -> float | None:
    """The newest price that any run was given, in dollars for an hour of one worker; None: there is none."""
    prices = [_price(body) for body in _bodies(reader, STARTED).values()]
    return next((price for price in reversed(prices) if price is not None), None)


def units_per_epoch(reader: CatalogReader) -> int:
    """The units of one model-epoch: the visits of train and valid shards that the plan has, or that were seen."""
    plan = json.loads(reader.query("SELECT plan FROM experiments")[0]["plan"] or "null")
    rows = reader.query("SELECT kind, MAX(position) + 1 AS visits FROM units GROUP BY kind")
    seen = {row["kind"]: row["visits"] for row in rows}
    planned = plan if isinstance(plan, Mapping) else {}
    visits = (planned.get(f"{kind}_shards", seen.get(kind, 0)) for kind in ("train", "valid"))
    return max(1, sum(count for count in visits if isinstance(count, int)))


def _run_cost(
    number: int, rows: list[dict[str, Any]], started: Mapping[str, Any], spent: Mapping[str, Any], price: float | None
) -> RunCost:
    seen = max(row["ended"] for row in rows) - min(row["begun"] for row in rows) if rows else 0.0
    seconds = _amount(spent, "seconds", seen)
    workers = _amount(started, "workers", max((row["workers"] for row in rows), default=1))
    worker_seconds = _amount(spent, "worker_seconds", workers * seconds)
    own = _price(started)
    rate = price if own is None else own
    dollars = _amount(spent, "dollars", None if rate is None else worker_seconds / 3600 * rate)
    return RunCost(
        run=number,
        device=str(started.get("device", "cpu")),
        seconds=seconds,
        worker_seconds=worker_seconds,
        models={row["model"]: ModelUse(row["seconds"], row["units"]) for row in rows},
        kwh=_amount(spent, "kwh", None),
        kwh_is_estimate=bool(spent.get("kwh_is_estimate", False)),
        dollars=dollars,
    )


def _with_energy(runs: list[RunCost]) -> list[RunCost]:
    """The runs, where energy is not recorded with an estimate from those of which it is."""
    rates: dict[str, float] = {}
    for device in {run.device for run in runs}:
        known = [(run.kwh, run.worker_seconds) for run in runs if run.device == device and run.kwh is not None]
        seconds = sum(seconds for _, seconds in known)
        if seconds:
            rates[device] = sum(kwh for kwh, _ in known) / seconds
    return [
        replace(run, kwh=rates[run.device] * run.worker_seconds, kwh_is_estimate=True)
        if run.kwh is None and run.device in rates
        else run
        for run in runs
    ]


def _bodies(reader: CatalogReader, kind: str) -> dict[int, dict[str, Any]]:
    """The newest event of a kind, by the run that it is about."""
    rows = reader.query("SELECT body FROM events WHERE kind = ? ORDER BY seq", kind)
    bodies = [json.loads(row["body"]) for row in rows]
    return {body["run"]: body for body in bodies if isinstance(body.get("run"), int)}


def _price(started: Mapping[str, Any]) -> float | None:
    budget = started.get("budget")
    return _amount(budget, "price", None) if isinstance(budget, Mapping) else None


def _amount(body: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """A number of an event, or `otherwise` where the event does not have it."""
    value = body.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return value if known else otherwise
