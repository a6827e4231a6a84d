"""What is wrong with an experiment in the store, and what would be done about it; `repair` does it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cerebro.errors import DataError, StoreError
from cerebro.execution.resume import Finish
from cerebro.session.lineage import first_gap
from cerebro.session.members import members_in
from cerebro.session.recovery import torn_catalog_log, units_by_model
from cerebro.storage.catalog import FILE, GENESIS, CatalogReader, event_hash
from cerebro.storage.dataset import open_dataset
from cerebro.storage.salvage import DAMAGED
from cerebro.storage.shards import check_shard
from cerebro.storage.store import ExperimentFolder

_ADVICE = re.compile(r"[;:] (?:restore it|ingest the source)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    about: str
    """What it is about: `catalog`, `log`, `checkpoint`, `units`, `leftover`, `status`, `dataset` or `driver`."""
    file: str
    found: str
    remedy: str
    model: str = ""
    repairable: bool = True

    def __str__(self) -> str:
        return f"{self.about:<10} {self.found}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found, and what was looked at."""

    experiment: str
    driver: str | None
    """The process that runs the experiment now."""
    looked_at: Mapping[str, int]
    """How many rows, states and shards were compared with their digests."""
    findings: tuple[Finding, ...]


def examine(folder: ExperimentFolder, held: bool = False) -> Examination:
    """Verify an experiment: its catalog, states, units and dataset; changes nothing.

    While a driver is alive its states are not looked at, since they come and go. `held`: this process is the holder.

    Raises:
        StoreError: there is no such experiment.
    """
    if not folder.exists:
        folder.reader()  # raises, with the names of those that exist
    driver, name = None if held else folder.driver(), folder.path.name
    findings = list(_log(folder)) if driver is None else []
    try:
        with closing(folder.reader()) as reader:
            damage = list(_catalog(reader))
            if damage:
                return Examination(name, driver, {}, (*findings, *damage))
            if driver is None:
                findings += [*_status(reader), *_states(reader, folder), *_units(reader)]
            damaged_data = list(_dataset(reader))
            looked_at = {
                "rows": reader.query("SELECT sum(rows) AS count FROM seals")[0]["count"],
                "states": len(reader.rows("checkpoints")) if driver is None else 0,
                "shards": _shard_count(reader),
            }
    except StoreError as error:
        return Examination(name, driver, {}, (*findings, _unreadable(folder, str(error))))
    findings += list(_scratch(folder)) if driver is None else []
    return Examination(name, driver, looked_at, (*findings, *damaged_data))


def finish_of(experiment: Mapping[str, Any]) -> Finish:
    """What ends an epoch, from the experiment's row."""
    plan = experiment["plan"] or {"train_shards": 1, "valid_shards": 0}
    return Finish(plan["train_shards"], plan["valid_shards"])


def _log(folder: ExperimentFolder) -> Iterator[Finding]:
    torn = torn_catalog_log(folder)
    if torn is not None:
        yield Finding("log", torn.file.name, str(torn), "the next run goes on from what is left")


def _catalog(reader: CatalogReader) -> Iterator[Finding]:
    remedy = f"rebuild it from the rows that add up, keep the old one as {DAMAGED}, and let the other models start anew"
    for row in reader.query("PRAGMA integrity_check(20)"):
        if row["integrity_check"] != "ok":
            yield Finding("catalog", FILE, f"{FILE}: {row['integrity_check']}", remedy)
    for broken in reader.broken():
        yield Finding("catalog", FILE, f"{FILE}: {broken}", remedy, broken.model)
    before = GENESIS
    for seq, row in enumerate(reader.query("SELECT * FROM events ORDER BY seq"), start=1):
        found = event_hash(before, row["seq"], row["ts"], row["actor"], row["kind"], row["body"])
        if row["seq"] != seq or row["prev_hash"] != before or row["hash"] != found:
            what = f"{FILE}: event {seq} breaks the chain: hash {found} expected, {row['hash']} found"
            yield Finding("catalog", FILE, what, remedy)
            return
        before = row["hash"]


def _unreadable(folder: ExperimentFolder, why: str) -> Finding:
    return Finding("catalog", FILE, why.partition(". See `cerebro")[0], "rebuild it from what can be read, if anything")


def _status(reader: CatalogReader) -> Iterator[Finding]:
    if reader.experiment()["status"] == "running":
        found = "the experiment is `running` and no driver is alive: it was killed"
        yield Finding("status", FILE, found, "set it to `interrupted`; `cerebro run` goes on where it was")


def _states(reader: CatalogReader, folder: ExperimentFolder) -> Iterator[Finding]:
    checkpoints, rows = folder.checkpoints, reader.rows("checkpoints", order="length(model), model, epoch, position")
    for row in rows:
        try:
            checkpoints.read(row["state_digest"])
        except StoreError as error:
            remedy = f"forget it, and let the next run compute {row['model']} again from its last good state"
            yield Finding("checkpoint", checkpoints.path(row["state_digest"]).name, str(error), remedy, row["model"])
    for state_digest in sorted(checkpoints.digests() - {row["state_digest"] for row in rows}):
        path = checkpoints.path(state_digest)
        yield Finding("leftover", path.name, f"{path} is no checkpoint of any model", "delete it")
    for path in checkpoints.leftovers():
        yield Finding("leftover", path.name, f"{path} was not written to its end", "delete it")
    kept = {row["model"] for row in rows}
    for row in reader.models():
        if row["status"] == "finished" and row["model"] not in kept:
            remedy = f"let the next run compute {row['model']} again"
            found = f"{row['model']} is finished and no state of it is kept"
            yield Finding("checkpoint", FILE, found, remedy, row["model"])


def _units(reader: CatalogReader) -> Iterator[Finding]:
    """Models whose units are no chain of states."""
    members = members_in(reader)
    for model, rows in units_by_model(reader).items():
        gap = first_gap(rows, members[model].ancestor)
        if gap is not None:
            yield Finding("units", FILE, f"{model}, {gap}", f"let the next run train {model} anew", model)


def _dataset(reader: CatalogReader) -> Iterator[Finding]:
    experiment = reader.experiment()
    remedy = "restore it, or ingest the source again: nothing here is repaired"

    def finding(file: str, found: str) -> Finding:
        return Finding("dataset", file, _ADVICE.split(found)[0], remedy, repairable=False)

    try:
        dataset = open_dataset(experiment["data"], experiment["spec"]["data"])
    except DataError as error:
        yield finding(experiment["data"], str(error))
        return
    expected = experiment["spec"]["data"]
    if dataset.digest != expected:
        found = f"{dataset.path} is another dataset: digest {expected} expected, {dataset.digest} found"
        yield finding("manifest.json", found)
        return
    for shard in (shard for shards in dataset.splits.values() for shard in shards):
        try:
            check_shard(dataset.path / shard.file, shard)
        except DataError as error:
            yield finding(shard.file, str(error))


def _shard_count(reader: CatalogReader) -> int:
    experiment = reader.experiment()
    try:
        return sum(map(len, open_dataset(experiment["data"], experiment["spec"]["data"]).splits.values()))
    except DataError:
        return 0


def _scratch(folder: ExperimentFolder) -> Iterator[Finding]:
    scratch = folder.path / "new"
    if scratch.exists():
        yield Finding("leftover", "new", f"{scratch} is a catalog that was never finished", "delete it")
