"""Reading a catalog, while a driver writes it or after; what is read is compared with its seals.

A damaged row is never taken for what happened (`cerebro.storage.seals`).
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.ids import canonical_json
from cerebro.messages import Unit
from cerebro.storage.schema import FORMAT, expected_statements, table_statements
from cerebro.storage.seals import PARTS, Broken, Seal, broken_seals
from cerebro.storage.writing import writing

FILE = "catalog.sqlite"

_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)

GENESIS = "0" * 64
"""What stands for the hash of the event before the first."""


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One finished unit, as the catalog keeps it."""

    unit_id: str
    unit: Unit
    parent_digest: str | None
    state_digest: str | None
    run: int
    worker: int
    started: float
    """Seconds since 1970."""
    seconds: float
    rows: int
    partials: Mapping[str, Any]
    moved_bytes: int
    peak_bytes: int
    read_bytes: int
    kernel: str = ""
    """How it was computed, if not as the reference (`cerebro.plan.kernels`)."""


def event_hash(prev_hash: str, seq: int, ts: float, actor: str, kind: str, body: str) -> str:
    """The hash that ties an event to all events before it."""
    return hashlib.sha256(canonical_json([prev_hash, seq, ts, actor, kind, body]).encode()).hexdigest()


def damaged(file: Path, why: object) -> StoreError:
    """The error of a catalog that is not what was written."""
    name = file.parent.name
    return StoreError(f"{file} is damaged: {why}. See `cerebro doctor {name}`; it repairs what it can with --repair")


def unreadable(file: Path, error: sqlite3.DatabaseError) -> StoreError:
    """What it means that SQLite refuses a catalog: the disk fails, such as by being full, or the file is damaged."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _OF_THE_DISK:
        return damaged(file, error)
    try:
        with writing(file):  # also to read: SQLite writes an index of the write-ahead log
            raise error
    except StoreError as refused:
        return refused


class CatalogReader:
    """Read-only questions to the catalog of one experiment; any number at once, while the driver writes."""

    def __init__(self, folder: Path) -> None:
        """Open the catalog in the experiment's `folder`.

        Raises:
            StoreError: no catalog there, not a catalog, or of a newer version.
        """
        self.file = folder / FILE
        if not self.file.is_file():
            raise StoreError(f"no experiment at {folder}: run one there first, or give another --store")
        try:
            self._db = self._connect()
            found = self._db.execute("SELECT format FROM experiments").fetchone()
            tables = table_statements(self._db)
        except sqlite3.DatabaseError as error:
            raise unreadable(self.file, error) from error
        if found is None or found[0] != FORMAT:
            version = None if found is None else found[0]
            raise StoreError(
                f"{self.file} has format {version}, this version reads {FORMAT}: use the version that made it"
            )
        if tables != expected_statements():
            raise damaged(self.file, "its tables are not declared as they were made")

    def _connect(self) -> sqlite3.Connection:
        # Where nothing can be written, SQLite cannot make the index of a write-ahead log; nor can anybody be writing.
        still = "" if os.access(self.file.parent, os.W_OK) else "&immutable=1"
        return sqlite3.connect(f"{self.file.resolve().as_uri()}?mode=ro{still}", uri=True, timeout=10)

    def close(self) -> None:
        self._db.close()

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query as plain mappings; their seals are not looked at.

        Raises:
            StoreError: SQLite finds the file damaged.
        """
        try:
            cursor = self._db.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.DatabaseError as error:
            raise unreadable(self.file, error) from error

    def rows(self, part: str, model: str | None = None, order: str = "") -> list[dict[str, Any]]:
        """The rows of a table, of one model or of all, compared with their seals.

        Raises:
            StoreError: they are not what was written.
        """
        found, broken = self._sealed(part, model, order)
        if broken:
            raise damaged(self.file, broken[0])
        return found

    def broken(self) -> list[Broken]:
        """Where the catalog is not what was written; SQLite can read all of it."""
        return [broken for part in PARTS for broken in self._sealed(part, None, "")[1]]

    def check(self) -> None:
        """Compare everything with its seals.

        Raises:
            StoreError: something is not what was written.
        """
        for part in PARTS:
            self.rows(part)

    def _sealed(self, part: str, model: str | None, order: str) -> tuple[list[dict[str, Any]], list[Broken]]:
        where, values = ("WHERE model = ?", (model,)) if model is not None else ("", ())
        ordered = f"ORDER BY {order}" if order else ""
        with self._snapshot():
            found = self.query(f"SELECT * FROM {part} {where} {ordered}", *values)
            owner = " AND model = ?" if model is not None else ""
            seals = self.query(f"SELECT * FROM seals WHERE part = ?{owner}", part, *values)
        expected = {str(row["model"]): Seal(row["rows"], row["total"]) for row in seals}
        return found, broken_seals(part, found, expected, model)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment, also while the driver writes."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def experiment(self) -> dict[str, Any]:
        """The row of the experiment; `spec`, `fingerprint` and `plan` parsed."""
        row = self.rows("experiments")[0]
        return {**row, **{name: json.loads(row[name] or "null") for name in ("spec", "fingerprint", "plan")}}

    def models(self) -> list[dict[str, Any]]:
        """The rows of the models in order of their ids; `config` parsed."""
        rows = self.rows("models", order="length(model), model")
        return [{**row, "config": json.loads(row["config"])} for row in rows]

    def declarations(self) -> dict[str, dict[str, Any]]:
        """Each `spec` that models of this experiment were trained under, parsed, by its digest; the oldest first."""
        return {row["plan_id"]: json.loads(row["spec"]) for row in self.rows("declarations", order="ts")}

    def check_model(self, model: str) -> None:
        """Check that there is such a model.

        Raises:
            StoreError: there is none; the message names those there are.
        """
        known = [row["model"] for row in self.models()]
        if model not in known:
            name = self.experiment()["name"]
            raise StoreError(f"experiment {name!r} has no model {model!r}; it has {known[0]} to {known[-1]}")

    def metrics(self) -> list[dict[str, Any]]:
        """One row for each (model, epoch, split, name), in that order; a NaN comes as None."""
        return self.rows("metrics", order="length(model), model, epoch, split, name")

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """The events with a `seq` above `after`, oldest first; `body` parsed."""
        rows = self.rows("events", order="seq")
        return [{**row, "body": json.loads(row["body"])} for row in rows if row["seq"] > after]

    def units(self, model: str | None = None) -> list[UnitRow]:
        """The finished units, of one model or of all, each model's in the order they were trained in."""
        rows = self.rows("units", model, order="length(model), model, epoch, kind, position")
        return [unit_row(row) for row in rows]

    def last_checkpoints(self) -> dict[str, dict[str, Any]]:
        """The newest checkpoint of each model, by model."""
        rows = self.rows("checkpoints", order="epoch, position")
        return {row["model"]: row for row in rows}


def unit_row(row: Mapping[str, Any]) -> UnitRow:
    """A row of the table `units`, `partials` parsed."""
    unit = Unit(row["model"], row["kind"], row["epoch"], row["position"], row["shard"])
    rest = ("unit_id", "parent_digest", "state_digest", "run", "worker", "started", "seconds", "rows", "kernel")
    sizes = {name: row[name] for name in ("moved_bytes", "peak_bytes", "read_bytes")}
    return UnitRow(unit=unit, partials=json.loads(row["partials"]), **{name: row[name] for name in rest}, **sizes)
