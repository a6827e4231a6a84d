"""An experiment as a driver would have left it, to be steered."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cerebro.control.validation import Facts, ModelFacts
from cerebro.messages import Unit
from cerebro.storage.catalog import Catalog
from cerebro.storage.store import ExperimentFolder
from tests.report.catalogs import unit_row

CONFIGS: tuple[Mapping[str, Any], ...] = tuple(
    {"layers": layers, "optimizer": {"kind": "adamw", "lr": lr}} for layers in (1, 2) for lr in (0.1, 0.01, 0.001, 1e-4)
)
STATUSES = ("finished", "training", "paused", "stopped", "failed", "diverged", "waiting", "training")
EPOCHS = (5, 3, 2, 2, 1, 0, 0, 0)
HAVE_STATES = ("m001", "m002", "m003", "m004")


def facts(**changes: Any) -> Facts:
    """Eight models, one or two in each status, of an experiment of five epochs that is running."""
    models = {
        f"m{number:03d}": ModelFacts(
            config, status, epochs, f"m{number:03d}" in HAVE_STATES, 2.0 * epochs, 2.0 if epochs else None
        )
        for number, (config, status, epochs) in enumerate(zip(CONFIGS, STATUSES, EPOCHS, strict=True), 1)
    }
    given = {"experiment": "posture", "status": "running", "epochs": 5, "metric": "accuracy", "mode": "max"}
    return Facts(**{**given, "models": models, **changes})


def left_behind(
    store: Path,
    name: str = "posture",
    status: str = "interrupted",
    source: str | None = None,
    data: str = "nowhere.shards",
) -> ExperimentFolder:
    """The same models in the catalog of an experiment that no run holds."""
    folder = ExperimentFolder(store / name)
    folder.path.mkdir(mode=0o700, parents=True)
    row = {"name": name, "spec": {}, "plan_id": "p", "metric": "accuracy", "mode": "max", "epochs": 5}
    members = {model: {"config": each.config, "repeat": 0, "ancestor": None} for model, each in facts().models.items()}
    Catalog.create(folder.path, {**row, "fingerprint": {}, "data": data, "source": source}, members)
    with closing(Catalog(folder.path)) as catalog, catalog.transaction():
        catalog.set_experiment(status=status)
        for model, each in facts().models.items():
            catalog.set_model(model, status=each.status, epochs=each.epochs, seconds=each.seconds)
            if each.has_state:
                catalog.add_checkpoint(model, each.epochs, 3, model[1:].rjust(64, "0"), 1000)
            for epoch in range(1, each.epochs + 1):
                catalog.add_unit(unit_row(Unit(model, "train", epoch, 0, 0), seconds=2.0))
                catalog.add_metrics(model, epoch, "valid", {"accuracy": 0.5 + 0.01 * int(model[1:])})
    return folder
