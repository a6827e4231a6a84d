"""Doing what an examination says: what is damaged is forgotten, so that the next run computes it again."""

import shutil
from collections.abc import Sequence
from contextlib import closing

from cerebro.execution.resume import resumption
from cerebro.session.examination import Examination, Finding, examine, finish_of
from cerebro.session.members import start_in
from cerebro.session.recovery import forget_unsound, note_torn_log, roll_back, torn_catalog_log, units_by_model
from cerebro.storage.catalog import Catalog
from cerebro.storage.salvage import replace_catalog, salvage
from cerebro.storage.store import ExperimentFolder

_ENDED_BADLY = ("failed", "diverged")


def repair(folder: ExperimentFolder) -> tuple[Examination, Examination]:
    """Repair what can be repaired, and never the dataset; gives what was found before and what is left.

    Raises:
        StoreError: a driver is alive, or the catalog is damaged beyond repair, with the way out.
    """
    examine(folder)  # raises if there is no such experiment, before the lock makes a folder
    with folder.held():
        before = _looked_at_alone(folder)
        done = [finding for finding in before.findings if finding.repairable]
        if any(finding.about == "catalog" for finding in done):
            replace_catalog(folder.path, salvaged := salvage(folder.path, folder.checkpoints))
            done += [Finding("catalog", "", f"{model} starts anew", "", model) for model in salvaged.lost]
        if done:
            _mend(folder, done)
        return before, _looked_at_alone(folder)


def _looked_at_alone(folder: ExperimentFolder) -> Examination:
    """An examination by who holds the experiment: no driver is alive but this process."""
    return examine(folder, held=True)


def _mend(folder: ExperimentFolder, done: Sequence[Finding]) -> None:
    shutil.rmtree(folder.path / "new", ignore_errors=True)
    torn = torn_catalog_log(folder)
    with closing(Catalog(folder.path)) as catalog:
        note_torn_log(catalog, torn)
        rows = catalog.models()
        forget_unsound(catalog, folder.checkpoints, {row["model"] for row in rows})
        _roll_back(catalog, {row["model"] for row in rows if row["status"] not in _ENDED_BADLY}, done)
        with catalog.transaction():
            ended = all(row["status"] in ("finished", *_ENDED_BADLY) for row in catalog.models())
            catalog.set_experiment(status="finished" if ended else "interrupted")
            found = [{"about": each.about, "model": each.model, "found": each.found} for each in done]
            catalog.add_event("user", "repaired", {"findings": found})
        folder.checkpoints.collect({row["state_digest"] for row in catalog.rows("checkpoints")})


def _roll_back(catalog: Catalog, models: set[str], done: Sequence[Finding]) -> None:
    """Let models go on from their last sound state; from the beginning where their units are no chain."""
    finish, newest = finish_of(catalog.experiment()), catalog.last_checkpoints()
    broken = {finding.model for finding in done if finding.about == "units"}
    units = units_by_model(catalog)
    starts = {row["model"]: start_in(row) for row in catalog.models()}
    with catalog.transaction():
        for model in sorted(models):
            for row in catalog.rows("checkpoints", model) if model in broken else ():
                catalog.forget_checkpoint(model, row["state_digest"])
            checkpoint = None if model in broken else newest.get(model)
            past = resumption(units.get(model, ()), checkpoint, finish, starts[model])
            if past.forgotten:
                roll_back(catalog, model, past)
