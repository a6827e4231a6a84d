"""How far an experiment is, read from its catalog alone: `cerebro top` in another terminal."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live

from cerebro.messages import Unit
from cerebro.report.render import ROWS, render
from cerebro.report.snapshot import ENDED, ModelProgress, Snapshot, WorkerProgress, eta
from cerebro.report.tracking import expected_units
from cerebro.report.wording import first_line, flat, split_keys
from cerebro.spec.experiment import objective
from cerebro.storage.catalog import CatalogReader

_GOING = frozenset({"new", "running"})
"""The statuses of an experiment in which more is to come."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The numbers of the plan."""

    workers: int
    train_shards: int
    valid_shards: int
    epochs: int

    @property
    def units(self) -> int:
        return self.epochs * (self.train_shards + self.valid_shards)


def snapshot(reader: CatalogReader, clock: Callable[[], float] = time.time) -> Snapshot:
    """The present moment of an experiment, as far as its driver has committed it.

    `clock` gives seconds since 1970. What the workers run now is not in the catalog: they show what they ran last.
    """
    experiment = reader.experiment()
    shape = _shape(reader, experiment)
    models = _models(reader, experiment, shape)
    run = reader.query(
        "SELECT max(run) AS run, min(started) AS begun FROM units WHERE run = (SELECT max(run) FROM units)"
    )
    begun = run[0]["begun"]
    ended = clock() if experiment["status"] in _GOING else _last_end(reader, run[0]["run"])
    elapsed = max(0.0, ended - begun) if begun is not None else 0.0
    return Snapshot(
        name=experiment["name"],
        metric=experiment["metric"],
        mode=experiment["mode"],
        status=experiment["status"],
        elapsed_seconds=elapsed,
        eta_seconds=_eta(reader, models, shape),
        units_done=sum(model.units_done for model in models),
        units_total=sum(expected_units(model) for model in models),
        epochs=shape.epochs,
        models=models,
        workers=_workers(reader, run[0]["run"], elapsed),
    )


def watch(
    reader: CatalogReader,
    once: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Draw the experiment once a second until it is no longer running; once, where it cannot be redrawn."""
    console = console or Console()
    present = snapshot(reader, clock)
    if once or not console.is_terminal or console.is_dumb_terminal or present.status not in _GOING:
        console.print(render(present))
        return
    with Live(console=console, auto_refresh=False, screen=False) as live, suppress(KeyboardInterrupt):
        while present.status in _GOING:
            live.update(render(present, max(3, min(ROWS, console.height - 6))), refresh=True)
            sleep(1.0)
            present = snapshot(reader, clock)
        live.update(render(present), refresh=True)


def plan_number(plan: Any, key: str) -> int | None:
    """A count of the plan, or None where the plan does not say."""
    value = plan.get(key) if isinstance(plan, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shape(reader: CatalogReader, experiment: Mapping[str, Any]) -> _Shape:
    """The numbers of the plan; what it does not say is taken from the units seen so far."""
    plan = experiment["plan"]
    rows = reader.query("SELECT kind, max(position) + 1 AS shards FROM units GROUP BY kind")
    seen = {row["kind"]: row["shards"] for row in rows}
    seen["workers"] = reader.query("SELECT count(DISTINCT worker) AS workers FROM units")[0]["workers"]
    named = {"workers": "workers", "train": "train_shards", "valid": "valid_shards"}
    found = {key: plan_number(plan, name) for key, name in named.items()}
    workers, train, valid = (seen.get(key, 0) if value is None else value for key, value in found.items())
    return _Shape(max(1, workers), train, valid, experiment["epochs"])


def _models(reader: CatalogReader, experiment: Mapping[str, Any], shape: _Shape) -> tuple[ModelProgress, ...]:
    rows = reader.models()
    configs = [flat(row["config"]) for row in rows]
    varying, _ = split_keys(configs)
    counts = {
        row["model"]: row["units"]
        for row in reader.query("SELECT model, count(*) AS units FROM units GROUP BY model")
    }  # fmt: skip
    values, curves = _metrics(reader, experiment["metric"])
    return tuple(
        ModelProgress(
            model=row["model"],
            config={key: config[key] for key in varying if key in config},
            status=_status(row["status"], counts.get(row["model"], 0)),
            units_done=counts.get(row["model"], 0),
            units_total=max(shape.units, counts.get(row["model"], 0)),
            epoch=row["epochs"],
            values=values.get(row["model"], {}),
            curve=tuple(curves.get(row["model"], ())),
            error=first_line(row["error"]),
        )
        for row, config in zip(rows, configs, strict=True)
    )


def _status(status: str, units: int) -> str:
    return "training" if status == "waiting" and units else status


def _metrics(reader: CatalogReader, metric: str) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """By model, the newest value of each metric, and the course of the deciding one."""
    deciding = objective(metric)
    values: dict[str, dict[str, float]] = {}
    curves: dict[str, list[float]] = {}
    for row in reader.metrics():
        value = math.nan if row["value"] is None else row["value"]
        values.setdefault(row["model"], {})[f"{row['split']}.{row['name']}"] = value
        if (row["split"], row["name"]) == deciding:
            curves.setdefault(row["model"], []).append(value)
    return values, curves


def _last_end(reader: CatalogReader, run: int | None) -> float:
    row = reader.query("SELECT max(started + seconds) AS ended FROM units WHERE run IS ?", run)[0]
    return row["ended"] or 0.0


def _eta(reader: CatalogReader, models: tuple[ModelProgress, ...], shape: _Shape) -> float | None:
    """Remaining units at the mean seconds of those finished; a unit of a model costs what its others did."""
    rows = reader.query("SELECT model, avg(seconds) AS mean FROM units GROUP BY model")
    means = {row["model"]: row["mean"] for row in rows}
    if not means:
        return None
    usual = sum(means.values()) / len(means)
    remaining = {
        model.model: (model.units_total - model.units_done) * means.get(model.model, usual)
        for model in models
        if model.status not in ENDED and model.units_total > model.units_done
    }
    return eta(remaining, shape.workers, 1.0)


def _workers(reader: CatalogReader, run: int | None, elapsed: float) -> tuple[WorkerProgress, ...]:
    rows = reader.query(
        "SELECT worker, sum(seconds) AS busy, max(started) AS started, model, kind, epoch, position, shard "
        "FROM units WHERE run IS ? GROUP BY worker ORDER BY worker",
        run,
    )  # SQLite gives the other columns of the row that holds the maximum
    return tuple(
        WorkerProgress(
            worker=row["worker"],
            unit=None,
            busy_share=min(1.0, row["busy"] / elapsed) if elapsed > 0 else 0.0,
            last=Unit(row["model"], row["kind"], row["epoch"], row["position"], row["shard"]),
        )
        for row in rows
    )
