"""Catalogs as a driver would have left them, made up."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from cerebro.ids import model_id
from cerebro.messages import Unit
from cerebro.plan.program import Member
from cerebro.storage.catalog import Catalog, UnitRow

BEGUN = 1_700_000_000.0
FINGERPRINT = {"python": "3.13.1", "torch": "2.13.0+cpu", "cpu": "AVX2", "threads": 1, "canary": "9f2c41d07be3aa10"}
PLAN_TEXT = """\
Select  best accuracy (max)                              est 2 min   peak 1.1 GiB   moved 0 B
└─ Hop  10 epochs · 16 models × 4 shards on 2 workers    no schedule is shorter than 1 min 58 s
   └─ Train  16 × ConvLSTM {layers, width, lr, l2}"""


def create(
    folder: Path,
    configs: Sequence[Mapping[str, Any]],
    metric: str = "accuracy",
    mode: str = "max",
    epochs: int = 1,
    name: str = "posture",
) -> Catalog:
    """A new catalog, open for writing."""
    experiment = {
        "name": name,
        "spec": {"data": "0" * 64},
        "plan_id": "5ad1" * 16,
        "metric": metric,
        "mode": mode,
        "epochs": epochs,
        "data": "/somewhere/posture.shards",
        "source": None,
        "fingerprint": FINGERPRINT,
    }
    Catalog.create(
        folder, experiment, {model_id(index): Member(config).as_json() for index, config in enumerate(configs)}
    )
    return Catalog(folder)


def finish(catalog: Catalog, model: str, valid: Mapping[str, float], epoch: int = 1, **train: float) -> None:
    """Let a model have finished `epoch`, with these metrics."""
    catalog.add_metrics(model, epoch, "valid", valid)
    catalog.add_metrics(model, epoch, "train", train or {"loss": 0.5})
    catalog.set_model(model, status="finished", epochs=epoch, state_digest="d" * 64)


def unit_row(unit: Unit, run: int = 1, worker: int = 0, started: float = 0.0, seconds: float = 1.0) -> UnitRow:
    """A finished unit, `started` seconds after the beginning of all."""
    unit_id = f"{unit.model}-{unit.kind}-{unit.epoch}-{unit.position}"
    return UnitRow(
        unit_id=unit_id,
        unit=unit,
        parent_digest=None,
        state_digest=unit_id,
        run=run,
        worker=worker,
        started=BEGUN + started,
        seconds=seconds,
        rows=64,
        partials={},
        moved_bytes=250_000,
        peak_bytes=480_000_000,
        read_bytes=0,
    )


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(space, point, strict=True)) for point in product(*space.values())]


POSTURE = grid(
    {"layers": [1, 2], "width": [16, 32], "lr": [1e-3, 1e-4], "l2": [0.0, 1e-4], "optimizer": ["adamw"]}
)  # fmt: skip
LARGE = grid(
    {
        "lr": [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5],
        "width": [16, 32, 64, 128],
        "dropout": [0.0, 0.1, 0.3, 0.5],
        "head": [{"kind": "mean"}, {"kind": "attention", "heads": 4}],
    }
)


def trained(
    folder: Path, configs: Sequence[Mapping[str, Any]], epochs: int, shards: int = 4, workers: int = 2, runs: int = 2
) -> Catalog:
    """A whole experiment: every unit, curves that bend, one model that failed and one that diverged."""
    catalog = create(folder, configs, epochs=epochs)
    streams = random.Random(7)
    clocks = [0.0] * workers
    models = [model_id(index) for index in range(len(configs))]
    broken = {models[2]: 1, models[5]: max(2, epochs // 2)} if len(models) > 5 else {}
    units = [
        (epoch, position, model) for epoch in range(1, epochs + 1) for position in range(shards + 1) for model in models
    ]
    with catalog.transaction():
        for epoch, position, model in units:
            if epoch >= broken.get(model, epochs + 1):
                continue
            worker = min(range(workers), key=clocks.__getitem__)
            valid = position == shards
            unit = Unit(model, "valid" if valid else "train", epoch, 0 if valid else position, 0 if valid else position)
            run = 1 + (epoch - 1) * runs // epochs
            seconds = (0.12 if valid else 0.4) * streams.uniform(0.8, 1.3) * (1 + models.index(model) % 4 / 3)
            catalog.add_unit(unit_row(unit, run, worker, clocks[worker] + 5000 * run, seconds))
            catalog.add_seconds(model, seconds)
            clocks[worker] += seconds + streams.uniform(0.0, 0.02)
            if valid:
                _measure(catalog, model, epoch, epochs, streams)
        _break(catalog, broken, models)
    catalog.set_experiment(status="finished", plan=_plan_json(workers, shards))
    return catalog


def _measure(catalog: Catalog, model: str, epoch: int, epochs: int, streams: random.Random) -> None:
    talent = random.Random(model).random()
    accuracy = 0.5 + (0.2 + 0.25 * talent) * (1 - math.exp(-epoch / (1 + 4 * talent))) + streams.gauss(0, 0.006)
    loss = 1.6 * math.exp(-epoch * (0.1 + 0.3 * talent)) + 0.2 + 0.1 * streams.random()
    catalog.add_metrics(model, epoch, "valid", {"accuracy": accuracy, "loss": loss + 0.08 + 0.01 * epoch})
    catalog.add_metrics(model, epoch, "train", {"accuracy": accuracy + 0.02, "loss": loss})
    status = "finished" if epoch == epochs else "training"
    catalog.set_model(model, epochs=epoch, status=status, state_digest="d" * 64)


def _break(catalog: Catalog, broken: Mapping[str, int], models: Sequence[str]) -> None:
    if not broken:
        return
    failed, diverged = broken
    error = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x3 and 6x16)\n  while building the head"
    catalog.set_model(failed, status="failed", error=error)
    catalog.set_model(diverged, status="diverged", error="the loss became NaN in epoch 5, shard 2")
    catalog.set_model(models[1], badge="best effort")


def _plan_json(workers: int, shards: int) -> str:
    return json.dumps({"text": PLAN_TEXT, "workers": workers, "train_shards": shards, "valid_shards": 1})
