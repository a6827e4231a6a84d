"""The catalog: one SQLite file per experiment that remembers what was declared and what happened.

Users may query it (`sqlite3 cerebro.d/NAME/catalog.sqlite`); `docs/catalog.md` describes the tables. The driver that
holds the experiment is its only writer; everybody else opens it read-only (`CatalogReader`). What is read is compared
with its seal (`cerebro.storage.seals`), so that a damaged row is never taken for what happened.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.ids import canonical_json
from cerebro.messages import Unit
from cerebro.storage.schema import FORMAT, SCHEMA, expected_statements, table_statements
from cerebro.storage.seals import PARTS, Broken, Seal, broken_seals, keep_seals
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


class Catalog(CatalogReader):
    """The catalog opened for writing, by the one driver that holds the experiment."""

    def __init__(self, folder: Path) -> None:
        """Open the catalog in the experiment's `folder`, which is held; raises as that of a reader."""
        self._writes = threading.RLock()
        super().__init__(folder)

    def close(self) -> None:
        with self._writes:
            super().close()

    @classmethod
    def create(cls, folder: Path, experiment: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> None:
        """Write a new catalog: the whole of it, or nothing.

        `experiment` gives name, spec, plan_id, metric, mode, epochs,
        fingerprint, data (the dataset's folder) and source (the file that declares it, or None).
        """
        row = {**experiment, "format": FORMAT, "created": time.time(), "status": "new"}
        row |= {name: canonical_json(experiment[name]) for name in ("spec", "fingerprint")}
        declaration = {"plan_id": row["plan_id"], "ts": row["created"], "spec": row["spec"]}
        models = [
            {
                "model": model, "config": json.dumps(member["config"]), "repeat": member["repeat"], "status": "waiting",
                "plan_id": row["plan_id"],
            }
            for model, member in members.items()
        ]  # fmt: skip
        cls.rebuild(folder, {"experiments": [row], "declarations": [declaration], "models": models})

    @classmethod
    def rebuild(cls, folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write a new catalog of these rows by table, and seal them."""
        (folder / FILE).touch(mode=0o600)  # SQLite gives its log the permissions of the file
        with closing(sqlite3.connect(folder / FILE, timeout=10)) as db:
            # Without a write-ahead log: only the file itself is renamed.
            db.execute("PRAGMA synchronous = FULL")
            db.executescript("BEGIN IMMEDIATE;" + SCHEMA)
            keep_seals(db)
            for part, row in ((part, row) for part, those in rows.items() for row in those):
                places = ", ".join(f":{name}" for name in row)
                db.execute(f"INSERT INTO {part} ({', '.join(row)}) VALUES ({places})", row)
            db.commit()

    def _connect(self) -> sqlite3.Connection:
        with writing(self.file):
            db = sqlite3.connect(self.file, timeout=10, check_same_thread=False, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            # What a run on a full disk left in the log goes home first, or the log would take whatever room is made.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            keep_seals(db)
        return db

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside becomes durable together, or not at all.

        Raises:
            StoreError: the disk is full, read-only or broken, or SQLite finds the file damaged.
        """
        try:
            # One at a time: a run that is interrupted notes its end while its last rows may yet be being written.
            with self._writes, writing(self.file):  # such as a full disk: no damage
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite ends it by itself when the disk is full
                        self._db.execute("ROLLBACK")
                    raise
        except sqlite3.DatabaseError as error:
            raise unreadable(self.file, error) from error

    def set_experiment(self, **fields: Any) -> None:
        """Change columns of the experiment's row."""
        self._update("experiments", fields, "", ())

    def set_model(self, model: str, **fields: Any) -> None:
        """Change columns of one model's row."""
        self._update("models", fields, "WHERE model = ?", (model,))

    def add_seconds(self, model: str, seconds: float, **fields: Any) -> None:
        """Add to the training time spent on a model, and change columns of its row with it."""
        assignments = "".join(f", {name} = ?" for name in fields)
        self._db.execute(
            f"UPDATE models SET seconds = seconds + ?{assignments} WHERE model = ?", (seconds, *fields.values(), model)
        )

    def add_unit(self, row: UnitRow) -> None:
        """Insert a finished unit.

        Raises:
            StoreError: the same unit was recorded before with another result: a violation of determinism.
        """
        values = _unit_values(row)
        places = ", ".join("?" * len(values))
        cursor = self._db.execute(f"INSERT INTO units VALUES ({places}) ON CONFLICT (unit_id) DO NOTHING", values)
        if cursor.rowcount == 0:
            self._check_same_result(row)

    def _check_same_result(self, row: UnitRow) -> None:
        """A unit that was recorded before must have ended in the same state."""
        known = self._db.execute("SELECT state_digest FROM units WHERE unit_id = ?", (row.unit_id,)).fetchone()
        if known[0] != row.state_digest:
            raise StoreError(
                f"{row.unit}: the result {row.state_digest} differs from {known[0]} recorded before for the same "
                "inputs; the first stands. The user's code or this machine is not deterministic"
            )

    def add_metrics(self, model: str, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Insert the metrics of one model after one epoch on one split."""
        self._db.executemany(
            "INSERT INTO metrics VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (model, epoch, split, name) DO UPDATE SET value = excluded.value",
            [(model, epoch, split, name, value) for name, value in values.items()],
        )

    def add_checkpoint(self, model: str, epoch: int, position: int, state_digest: str, size: int) -> None:
        """Insert a checkpoint whose file is already durable."""
        self._db.execute(
            "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (model, epoch, position) "
            "DO UPDATE SET state_digest = excluded.state_digest, bytes = excluded.bytes, ts = excluded.ts",
            (model, epoch, position, state_digest, size, time.time()),
        )

    def drop_older_checkpoints(
        self, model: str, epoch: int, position: int, kept: Sequence[tuple[int, int]] = ()
    ) -> list[str]:
        """Forget a model's checkpoints before this one, but for those at `kept` places (epoch and position).

        Gives the digests that no model needs any more.
        """
        older = "model = ? AND (epoch, position) < (?, ?)" + " AND (epoch, position) <> (?, ?)" * len(kept)
        place = (model, epoch, position, *(part for each in kept for part in each))
        digests = self._db.execute(f"SELECT state_digest FROM checkpoints WHERE {older}", place)
        candidates = sorted({row[0] for row in digests})
        if candidates:
            self._db.execute(f"DELETE FROM checkpoints WHERE {older}", place)
        needed = "SELECT 1 FROM checkpoints WHERE state_digest = ? LIMIT 1"
        return [digest for digest in candidates if self._db.execute(needed, (digest,)).fetchone() is None]

    def forget_units(self, model: str, unit_ids: Sequence[str]) -> None:
        """Drop units of a model that will be run again."""
        self._db.executemany("DELETE FROM units WHERE unit_id = ?", [(unit_id,) for unit_id in unit_ids])
        spent = "SELECT COALESCE(SUM(seconds), 0) FROM units WHERE units.model = models.model"
        self._db.execute(f"UPDATE models SET seconds = ({spent}) WHERE model = ?", (model,))

    def forget_checkpoint(self, model: str, state_digest: str) -> None:
        """Drop a checkpoint whose file cannot be used."""
        self._db.execute("DELETE FROM checkpoints WHERE model = ? AND state_digest = ?", (model, state_digest))

    def roll_back(self, model: str, forgotten: Sequence[UnitRow], epochs: int, state_digest: str | None) -> None:
        """Let a model be where it was before the units `forgotten`: `epochs` complete, in that state; it goes on."""
        self.forget_units(model, [row.unit_id for row in forgotten])
        splits = {(model, row.unit.epoch, row.unit.kind) for row in forgotten}
        self._db.executemany("DELETE FROM metrics WHERE model = ? AND epoch = ? AND split = ?", sorted(splits))
        started = self._db.execute("SELECT 1 FROM units WHERE model = ? LIMIT 1", (model,)).fetchone()
        self.set_model(
            model, status="training" if started else "waiting", epochs=epochs, state_digest=state_digest, error=None,
            traceback=None,
        )  # fmt: skip

    def set_declaration(self, plan_id: str, spec: Mapping[str, Any]) -> None:
        """Let the experiment be declared by `spec` from now on; models keep the one that they were trained under."""
        text = canonical_json(spec)
        self._db.execute(
            "INSERT INTO declarations VALUES (?, ?, ?) ON CONFLICT (plan_id) DO NOTHING", (plan_id, time.time(), text)
        )
        self.set_experiment(plan_id=plan_id, spec=text)

    def add_model(self, model: str, member: Mapping[str, Any], plan_id: str, badge: str) -> None:
        """Insert a model that joins the experiment, unless it is there."""
        ancestor = member["ancestor"]
        self._db.execute(
            "INSERT INTO models (model, config, repeat, ancestor, status, epochs, badge, plan_id) "
            "VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?) ON CONFLICT (model) DO NOTHING",
            (
                model, json.dumps(member["config"]), member["repeat"], ancestor and canonical_json(ancestor),
                ancestor["epoch"] - 1 if ancestor else 0, badge, plan_id,
            ),
        )  # fmt: skip

    def has_command(self, order: str | None) -> bool:
        """Whether an order was carried out."""
        found = "SELECT 1 FROM commands WHERE json_extract(body, '$.id') = ?"
        return self._db.execute(found, (order,)).fetchone() is not None

    def add_command(self, actor: str, command: str, body: Mapping[str, Any]) -> int:
        """Insert what somebody asked for; gives its number."""
        cursor = self._db.execute(
            "INSERT INTO commands (ts, actor, command, body) VALUES (?, ?, ?, ?)",
            (time.time(), actor, command, canonical_json(body)),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_event(self, actor: str, kind: str, body: Mapping[str, Any]) -> None:
        """Append to the log, chained by hash to all that came before."""
        last = self._db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        seq, prev_hash = (last[0] + 1, last[1]) if last else (1, GENESIS)
        ts, text = time.time(), canonical_json(body)
        self._db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            (seq, ts, actor, kind, text, prev_hash, event_hash(prev_hash, seq, ts, actor, kind, text)),
        )

    def _update(self, table: str, fields: Mapping[str, Any], where: str, values: tuple[Any, ...]) -> None:
        assignments = ", ".join(f"{name} = ?" for name in fields)
        self._db.execute(f"UPDATE {table} SET {assignments} {where}", (*fields.values(), *values))


def _unit_values(row: UnitRow) -> tuple[Any, ...]:
    """The columns of the table `units`, in order."""
    unit = row.unit
    return (
        row.unit_id, unit.model, unit.kind, unit.epoch, unit.position, unit.shard, row.parent_digest, row.state_digest,
        row.run, row.worker, row.started, row.seconds, row.rows, canonical_json(row.partials), row.moved_bytes,
        row.peak_bytes,
    )  # fmt: skip


def unit_row(row: Mapping[str, Any]) -> UnitRow:
    """A row of the table `units`, `partials` parsed."""
    unit = Unit(row["model"], row["kind"], row["epoch"], row["position"], row["shard"])
    rest = ("unit_id", "parent_digest", "state_digest", "run", "worker", "started", "seconds", "rows")
    sizes = {"moved_bytes": row["moved_bytes"], "peak_bytes": row["peak_bytes"]}
    return UnitRow(unit=unit, partials=json.loads(row["partials"]), **{name: row[name] for name in rest}, **sizes)
