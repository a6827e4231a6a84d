"""Where an experiment goes on: from the last state of each model that is durable and sound."""

from collections.abc import Mapping
from typing import Any

from cerebro.errors import StoreError
from cerebro.execution.resume import Finish, Resumption, resumption
from cerebro.session.members import start_in
from cerebro.storage.catalog import FILE, Catalog, CatalogReader, UnitRow
from cerebro.storage.checkpoints import Checkpoints
from cerebro.storage.store import ExperimentFolder
from cerebro.storage.wal import TornLog, torn_log

ENDED = ("finished", "failed", "diverged")


def torn_catalog_log(folder: ExperimentFolder) -> TornLog | None:
    """Where the catalog's write-ahead log stops being readable; the folder is held, the catalog not open to write."""
    return torn_log(folder.path / f"{FILE}-wal")


def note_torn_log(catalog: Catalog, torn: TornLog | None) -> None:
    """Say in the log of events that the catalog fell back to an older state."""
    if torn is not None:
        body = {"file": torn.file.name, "frame": torn.frame, "expected": torn.expected, "found": torn.found}
        with catalog.transaction():
            catalog.add_event("engine", "write-ahead log torn", body)


def resume(catalog: Catalog, finish: Finish, checkpoints: Checkpoints) -> dict[str, Resumption]:
    """Where each model goes on; units whose states were lost or damaged are forgotten, and will be run again."""
    ended = {model["model"] for model in catalog.models() if model["status"] in ENDED}
    forget_unsound(catalog, checkpoints, set(units_by_model(catalog)) - ended)
    newest = catalog.last_checkpoints()
    starts = {row["model"]: start_in(row) for row in catalog.models()}
    past = {
        model: resumption(rows, newest.get(model), finish, starts[model])
        for model, rows in units_by_model(catalog).items()
    }
    with catalog.transaction():
        for model, part in past.items():
            if part.forgotten and model not in ended:
                roll_back(catalog, model, part)
    return past


def roll_back(catalog: Catalog, model: str, part: Resumption) -> None:
    """Let a model be where it goes on from: what came after its last sound state has not happened."""
    catalog.roll_back(model, part.forgotten, part.done.epoch - 1, part.state_digest)


def forget_unsound(catalog: Catalog, checkpoints: Checkpoints, models: set[str]) -> None:
    """Forget the newest checkpoints of `models` until each one's newest is sound; what is forgotten is in the log."""
    checkpoints.give_names({row["state_digest"] for row in catalog.rows("checkpoints")})
    newest = catalog.last_checkpoints()
    while unsound := _unsound(checkpoints, {model: newest[model] for model in models & newest.keys()}):
        with catalog.transaction():
            for model, (row, error) in unsound.items():
                catalog.forget_checkpoint(model, row["state_digest"])
                place = {"epoch": row["epoch"], "position": row["position"]}
                body = {"model": model, **place, "state_digest": row["state_digest"], "error": str(error)}
                catalog.add_event("engine", "checkpoint damaged", body)
        for row, _ in unsound.values():
            checkpoints.remove(row["state_digest"])  # or the same state, computed again, would not be written
        newest, models = catalog.last_checkpoints(), set(unsound)


def units_by_model(reader: CatalogReader) -> dict[str, list[UnitRow]]:
    """The finished units of each model that has any, in order."""
    found: dict[str, list[UnitRow]] = {}
    for row in reader.units():
        found.setdefault(row.unit.model, []).append(row)
    return found


def _unsound(
    checkpoints: Checkpoints, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Mapping[str, Any], StoreError]]:
    """Those of the checkpoints whose file is missing or has another digest, and why."""
    found: dict[str, tuple[Mapping[str, Any], StoreError]] = {}
    for model, row in rows.items():
        try:
            checkpoints.read(row["state_digest"])
        except StoreError as error:
            found[model] = row, error
    return found
