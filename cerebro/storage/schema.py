"""The tables of a catalog; `docs/catalog.md` describes them."""

import functools
import sqlite3
from contextlib import closing

FORMAT = 5

SCHEMA = """
CREATE TABLE experiments (
    name TEXT PRIMARY KEY, format INTEGER NOT NULL, created REAL NOT NULL,
    spec TEXT NOT NULL, plan_id TEXT NOT NULL, metric TEXT NOT NULL, mode TEXT NOT NULL, epochs INTEGER NOT NULL,
    data TEXT NOT NULL, source TEXT, fingerprint TEXT, plan TEXT, status TEXT NOT NULL);
CREATE TABLE declarations (
    plan_id TEXT PRIMARY KEY, ts REAL NOT NULL, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (
    model TEXT PRIMARY KEY, config TEXT NOT NULL, repeat INTEGER NOT NULL DEFAULT 0, ancestor TEXT,
    status TEXT NOT NULL, epochs INTEGER NOT NULL DEFAULT 0, until INTEGER,
    state_digest TEXT, seconds REAL NOT NULL DEFAULT 0, badge TEXT NOT NULL DEFAULT 'exact',
    architecture TEXT, error TEXT, traceback TEXT, plan_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE units (
    unit_id TEXT PRIMARY KEY, model TEXT NOT NULL, kind TEXT NOT NULL, epoch INTEGER NOT NULL,
    position INTEGER NOT NULL, shard INTEGER NOT NULL, parent_digest TEXT, state_digest TEXT,
    run INTEGER NOT NULL, worker INTEGER NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, rows INTEGER NOT NULL,
    partials TEXT NOT NULL, moved_bytes INTEGER NOT NULL, peak_bytes INTEGER NOT NULL, read_bytes INTEGER NOT NULL,
    kernel TEXT NOT NULL,
    UNIQUE (model, epoch, kind, position)) WITHOUT ROWID;
CREATE TABLE metrics (
    model TEXT NOT NULL, epoch INTEGER NOT NULL, split TEXT NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (model, epoch, split, name)) WITHOUT ROWID;
CREATE TABLE checkpoints (
    model TEXT NOT NULL, epoch INTEGER NOT NULL, position INTEGER NOT NULL, state_digest TEXT NOT NULL,
    bytes INTEGER NOT NULL, ts REAL NOT NULL, PRIMARY KEY (model, epoch, position)) WITHOUT ROWID;
CREATE TABLE commands (
    seq INTEGER PRIMARY KEY, ts REAL NOT NULL, actor TEXT NOT NULL, command TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, ts REAL NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    prev_hash TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE seals (
    part TEXT NOT NULL, model TEXT NOT NULL, rows INTEGER NOT NULL, total TEXT NOT NULL,
    PRIMARY KEY (part, model)) WITHOUT ROWID;
"""


def table_statements(db: sqlite3.Connection) -> frozenset[tuple[str, str | None]]:
    """The names of the tables and indexes of a database, with the statements that made them."""
    return frozenset(db.execute("SELECT name, sql FROM main.sqlite_master"))


@functools.cache
def expected_statements() -> frozenset[tuple[str, str | None]]:
    """What `table_statements` gives for a catalog of this version."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return table_statements(db)
