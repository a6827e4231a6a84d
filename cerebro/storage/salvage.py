"""Making a damaged catalog whole: what its seals still vouch for is kept, and every other model starts anew."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.ids import canonical_json, model_id
from cerebro.storage.catalog import FILE, GENESIS, Catalog, event_hash
from cerebro.storage.checkpoints import Checkpoints, sync_folder
from cerebro.storage.schema import expected_statements, table_statements
from cerebro.storage.seals import PARTS, Seal, broken_seals

Row = Mapping[str, Any]
Rows = dict[str, list[Row]]

DAMAGED = f"damaged-{FILE}"
"""Where the old file is kept; delete it when it is not needed any more."""
_PER_MODEL = ("models", "units", "metrics", "checkpoints")


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The rows of a catalog that can be trusted."""

    rows: Rows = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    """The models that start anew."""


def salvage(folder: Path, checkpoints: Checkpoints) -> Salvaged:
    """What can be trusted of the damaged catalog in `folder`, whose states are in `checkpoints`; reads only.

    How a model that has to start anew began is known from its row in `models`, from the log, or from the declaration.
    One of which all three are lost is not forgotten by a search that would try its config: the next run adds it.

    Raises:
        StoreError: too little, with the way out.
    """
    found, broken = _read(folder / FILE)
    experiment = _only(found, broken, folder)
    spec = json.loads(experiment["spec"])
    declarations = found["declarations"] if not broken["declarations"] else []
    if not any(row["plan_id"] == experiment["plan_id"] for row in declarations):
        present = {"plan_id": experiment["plan_id"], "ts": experiment["created"], "spec": experiment["spec"]}
        declarations = [*declarations, present]
    known = {row["plan_id"] for row in declarations}
    rows = {row["model"]: row for row in found["models"]}
    events = list(_chain(found["events"]))
    sound = [row for row in found["models"] if row["model"] not in broken["models"]]
    joined = _declared(spec) | _joined(events) | {row["model"]: _beginning(row) for row in sound}
    unsound = set[str]().union(*(broken[part] for part in _PER_MODEL))
    lost = [model for model in joined if model in unsound or rows.get(model, {}).get("plan_id") not in known]
    kept: Rows = {part: [row for row in found[part] if row["model"] not in {*unsound, *lost}] for part in _PER_MODEL}
    for model in lost:
        _add_anew(kept, model, joined[model], experiment["plan_id"], checkpoints)
    commands = found["commands"] if not broken["commands"] else [_command(row) for row in events if _is_run(row)]
    kept |= {"experiments": [experiment], "declarations": declarations, "commands": commands, "events": events}
    return Salvaged(kept, tuple(lost))


def replace_catalog(folder: Path, salvaged: Salvaged) -> None:
    """Put what was salvaged in the place of the damaged catalog, whole or not at all; the folder is held."""
    scratch = folder / "new"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    Catalog.rebuild(scratch, salvaged.rows)
    shutil.copy2(folder / FILE, folder / DAMAGED)
    # The log goes first: SQLite would apply it to the new file.
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{FILE}-wal").replace(folder / f"{DAMAGED}-wal")
    (folder / f"{FILE}-shm").unlink(missing_ok=True)
    (scratch / FILE).replace(folder / FILE)
    sync_folder(folder)
    scratch.rmdir()


def _read(file: Path) -> tuple[Rows, dict[str, set[str]]]:
    """All rows that can be read, and for each part the owners whose rows do not add up."""
    found: Rows = {part: [] for part in (*PARTS, "seals")}
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db,
    ):
        if table_statements(db) == expected_statements():
            found = {part: list(_readable(db, part)) for part in found}
    seals: dict[str, dict[str, Seal]] = {part: {} for part in PARTS}
    for row in found["seals"]:
        seals.get(row["part"], {})[str(row["model"])] = Seal(row["rows"], row["total"])
    broken = {part: {each.model for each in broken_seals(part, found[part], seals[part])} for part in PARTS}
    return found, broken


def _readable(db: sqlite3.Connection, part: str) -> Iterator[Row]:
    """The rows of a table up to the first page that cannot be read."""
    with contextlib.suppress(sqlite3.DatabaseError):
        cursor = db.execute(f"SELECT * FROM {part}")
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _only(found: Rows, broken: Mapping[str, set[str]], folder: Path) -> Row:
    if broken["experiments"] or len(found["experiments"]) != 1:
        raise StoreError(
            f"{folder / FILE} cannot be repaired: what the experiment is cannot be read. Restore a copy of "
            f"{folder}, or delete it and run the experiment anew"
        )
    return found["experiments"][0]


def _declared(spec: Mapping[str, Any]) -> dict[str, Row]:
    """How the models of a search begin that says all its configs, with their repeats."""
    names = ((model_id(i), config) for i, config in enumerate(spec.get("search", {}).get("configs", ())))
    return {
        name if not repeat else f"{name}-r{repeat + 1}": {"config": json.dumps(config), "repeat": repeat}
        for name, config in names
        for repeat in range(spec.get("repeats", 1))
    }


def _joined(events: Sequence[Row]) -> dict[str, Row]:
    """How the models begin whose coming is in the log: those that a procedure or a person added or cloned."""
    found = dict[str, Row]()
    for body in (json.loads(event["body"]) for event in events):
        member = body.get("member")
        if member is not None:
            ancestor = member["ancestor"] and canonical_json(member["ancestor"])
            begun = {"config": json.dumps(member["config"]), "repeat": member["repeat"], "ancestor": ancestor}
            found[body["model"]] = {**begun, "until": body.get("until")}
    return found


def _beginning(row: Row) -> Row:
    return {name: row[name] for name in ("config", "repeat", "ancestor", "until")}


def _add_anew(kept: Rows, model: str, begun: Row, plan_id: str, checkpoints: Checkpoints) -> None:
    """Let a model begin once more; a warm clone from its ancestor's state, as long as there is a file of it."""
    row = {"model": model, **begun, "status": "waiting", "epochs": 0, "plan_id": plan_id}
    if begun.get("ancestor"):
        ancestor = json.loads(begun["ancestor"])
        epoch, position, state = ancestor["epoch"], len(ancestor["train_shards"]) - 1, ancestor["state_digest"]
        row["epochs"], file = epoch - 1, checkpoints.path(state)
        if file.is_file():
            place = {"model": model, "epoch": epoch, "position": position}
            kept["checkpoints"].append(
                {**place, "state_digest": state, "bytes": file.stat().st_size, "ts": time.time()}
            )
        else:
            gone = f"the state of {ancestor['model']} that it starts from is not kept any more: clone it again"
            row |= {"status": "failed", "error": f"StoreError: {gone}"}
    kept["models"].append(row)


def _chain(events: Sequence[Row]) -> Iterator[Row]:
    """The events up to the first that the chain does not vouch for."""
    before = GENESIS
    for number, row in enumerate(events, start=1):
        fields = (row["seq"], row["ts"], row["actor"], row["kind"], row["body"])
        if row["seq"] != number or row["prev_hash"] != before or row["hash"] != event_hash(before, *fields):
            return
        before = row["hash"]
        yield row


def _is_run(event: Row) -> bool:
    return event["kind"] == "run started"


def _command(event: Row) -> Row:
    """The command behind an event that tells of it."""
    body = json.loads(event["body"])
    number = body.pop("run")
    return {"seq": number, "ts": event["ts"], "actor": event["actor"], "command": "run", "body": canonical_json(body)}
