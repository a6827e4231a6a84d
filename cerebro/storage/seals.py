"""Seals: what the rows of a catalog must add up to, so that a changed, lost or invented row is found.

SQLite checks the shape of its pages and not what is in them: two of three flipped bits pass unseen. So the catalog
keeps, for each table (a *part*) and model, the number of rows and the sum of their digests modulo 2^256. A sum does
not depend on the order of rows and changes by what one row changes; triggers of the writer's connection keep it, so
that no way of writing can forget it, in the same transaction as the row. A tool that edits rows without these triggers
breaks the seal, and is meant to.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PARTS = ("experiments", "declarations", "models", "units", "metrics", "checkpoints", "commands", "events")
"""The sealed tables: all but the seals."""

_OF_MODELS = frozenset({"models", "units", "metrics", "checkpoints"})
_MODULUS = 1 << 256
_EMPTY = "0" * 64
_TEXT = json.JSONEncoder(default=bytes.hex)


@dataclass(frozen=True, slots=True)
class Seal:
    """How many rows there are, and what their digests add up to."""

    rows: int = 0
    total: str = _EMPTY

    def __str__(self) -> str:
        return f"{self.rows} rows with seal {self.total}"


@dataclass(frozen=True, slots=True)
class Broken:
    """Rows of one part, of one model or of the whole experiment (`model` is empty), that do not add up."""

    part: str
    model: str
    expected: Seal
    found: Seal

    def __str__(self) -> str:
        whose = f" of {self.model}" if self.model else ""
        return f"the {self.part}{whose} do not add up: {self.expected} expected, {self.found} found"


def keep_seals(db: sqlite3.Connection) -> None:
    """Let a connection seal all that it writes; the tables exist."""
    db.create_function("seal_sum", -1, _sum, deterministic=True)
    db.create_function("seal_swap", -1, _swap, deterministic=True)
    # Without this, rows that INSERT OR REPLACE replaces would leave no trace.
    db.execute("PRAGMA recursive_triggers = ON")
    for part in PARTS:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({part})")]
        for statement in _triggers(part, columns):
            db.execute(statement)


def broken_seals(
    part: str, rows: Iterable[Mapping[str, Any]], seals: Mapping[str, Seal], model: str | None = None
) -> list[Broken]:
    """Where the rows of a part (all of them, or those of one model) are not what their seals say."""
    found = {owner: Seal(len(own), _total(part, own)) for owner, own in _by_owner(part, rows).items()}
    owners = [model] if model is not None else sorted({*found, *seals})
    pairs = ((owner, seals.get(owner, Seal()), found.get(owner, Seal())) for owner in owners)
    return [Broken(part, owner, expected, actual) for owner, expected, actual in pairs if expected != actual]


def _by_owner(part: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Sequence[Any]]]:
    owned: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        owned.setdefault(str(row["model"]) if part in _OF_MODELS else "", []).append(tuple(row.values()))
    return owned


def _total(part: str, rows: Iterable[Sequence[Any]]) -> str:
    return f"{sum(_digest(part, row) for row in rows) % _MODULUS:064x}"


def _sum(total: str, sign: int, part: str, *values: Any) -> str:
    """The total with a row added (`sign` 1) or taken away (-1)."""
    return f"{(int(total, 16) + sign * _digest(part, values)) % _MODULUS:064x}"


def _swap(total: str, part: str, *values: Any) -> str:
    """The total with a row changed; `values` are its old ones and its new ones."""
    half = len(values) // 2
    change = _digest(part, values[half:]) - _digest(part, values[:half])
    return f"{(int(total, 16) + change) % _MODULUS:064x}"


def _digest(part: str, values: Sequence[Any]) -> int:
    return int.from_bytes(hashlib.sha256(_TEXT.encode([part, *values]).encode()).digest())


def _triggers(part: str, columns: Sequence[str]) -> Iterator[str]:
    """The triggers that keep the seals of one table; they live in the writer's connection and not in the file."""

    def values(row: str) -> str:
        return ", ".join(f"{row}.{column}" for column in columns)

    def owner(row: str) -> str:
        return f"{row}.model" if part in _OF_MODELS else "''"

    def seal(row: str) -> str:
        return f"WHERE part = '{part}' AND model = {owner(row)};"

    # A row's digest is most of what its seal costs: each statement computes it once. An upsert would compute it twice.
    add = (
        f"INSERT INTO seals (part, model, rows, total) VALUES ('{part}', {owner('NEW')}, 0, '{_EMPTY}') "
        f"ON CONFLICT (part, model) DO NOTHING; "
        f"UPDATE seals SET rows = rows + 1, total = seal_sum(total, 1, '{part}', {values('NEW')}) {seal('NEW')}"
    )
    remove = f"UPDATE seals SET rows = rows - 1, total = seal_sum(total, -1, '{part}', {values('OLD')}) {seal('OLD')}"
    swap = f"UPDATE seals SET total = seal_swap(total, '{part}', {values('OLD')}, {values('NEW')}) {seal('NEW')}"
    same = f"{owner('OLD')} IS {owner('NEW')}"
    for name, event, when, work in (
        ("insert", "INSERT", "", add),
        ("delete", "DELETE", "", remove),
        ("update", "UPDATE", f"WHEN {same}", swap),
        ("move", "UPDATE", f"WHEN NOT {same}", remove + add),
    ):
        yield f"CREATE TEMP TRIGGER seal_{part}_{name} AFTER {event} ON main.{part} {when} BEGIN {work} END"
