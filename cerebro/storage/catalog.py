"""The catalog: one SQLite file per experiment that remembers what was declared and what happened.

Users may query it (`sqlite3 cerebro.d/NAME/catalog.sqlite`); `docs/catalog.md` describes the tables. The driver that
holds the experiment is its only writer; everybody else opens it read-only (`CatalogReader`). What is read is compared
with its seal (`cerebro.storage.seals`), so that a damaged row is never taken for what happened.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.ids import canonical_json
from cerebro.storage.catalog_reader import (
    FILE,
    GENESIS,
    CatalogReader,
    UnitRow,
    event_hash,
    unreadable,
)
from cerebro.storage.schema import FORMAT, SCHEMA
from cerebro.storage.seals import keep_seals
from cerebro.storage.writing import writing

__all__ = ["FILE", "GENESIS", "Catalog", "CatalogReader", "UnitRow", "event_hash", "unreadable"]


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
    def create(
        cls,
        folder: Path,
        experiment: Mapping[str, Any],
        members: Mapping[str, Mapping[str, Any]],
        checkpoints: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write a new catalog: the whole of it, or nothing.

        `checkpoints` are the rows of states that models go on from.

        `experiment` gives name, spec, plan_id, metric, mode, epochs,
        fingerprint, data (the dataset's folder) and source (the file that declares it, or None).
        """
        row = {**experiment, "format": FORMAT, "created": time.time(), "status": "new"}
        row |= {name: canonical_json(experiment[name]) for name in ("spec", "fingerprint")}
        declaration = {"plan_id": row["plan_id"], "ts": row["created"], "spec": row["spec"]}
        models = [
            {
                "model": model, "config": json.dumps(member["config"]), "repeat": member["repeat"], "status": "waiting",
                "plan_id": row["plan_id"], "ancestor": member["ancestor"] and canonical_json(member["ancestor"]),
            }
            for model, member in members.items()
        ]  # fmt: skip
        tables = {"experiments": [row], "declarations": [declaration], "models": models, "checkpoints": checkpoints}
        cls.rebuild(folder, tables)

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
        row.peak_bytes, row.read_bytes, row.kernel,
    )  # fmt: skip
