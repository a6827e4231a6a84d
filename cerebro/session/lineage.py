"""Where a model comes from: everything that it is a function of, and the chain of units that made it."""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from cerebro.errors import DataError
from cerebro.ids import digest
from cerebro.plan.program import Ancestor
from cerebro.report.leaderboard import leaderboard
from cerebro.storage.catalog import CatalogReader, UnitRow
from cerebro.storage.dataset import open_dataset
from cerebro.storage.store import ExperimentFolder

_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
_SHOWN = 12
"""Digits of a digest that a table shows; JSON has all."""


@dataclass(frozen=True, slots=True)
class Link:
    """One unit of a chain."""

    unit_id: str
    kind: str
    epoch: int
    position: int
    shard: int
    shard_digest: str | None
    """None where the dataset is not at hand."""
    run: int
    worker: int
    parent_digest: str | None
    state_digest: str | None
    kernel: str = ""
    """How it was computed, if not as the reference (`cerebro.plan.kernels`)."""


@dataclass(frozen=True, slots=True)
class ModelLineage:
    """Where one model comes from."""

    experiment: str
    model: str
    status: str
    badge: str
    config: Mapping[str, Any]
    plan_id: str
    """The digest of `declaration`."""
    declaration: Mapping[str, Any]
    """What the model was trained under: data, code, seed, metric, ... as the experiment declared it then."""
    fingerprint: Mapping[str, Any]
    """What the numerics depended on."""
    epochs: int
    """Epochs that it has completed."""
    state_digest: str | None
    metrics: Mapping[str, Mapping[str, float | None]]
    history: Sequence[Mapping[str, Any]] = field(default=())
    """The events that speak of this model alone, such as `retried`."""
    units: Sequence[Link] = field(default=())

    @property
    def code_digest(self) -> str:
        """The digest of the code that trained it."""
        return digest(self.declaration["code"])

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "code_digest": self.code_digest, "fingerprint_digest": digest(self.fingerprint)}

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *_table(self.units)]) if self.units else "\n".join(self._head())

    def _head(self) -> list[str]:
        said = self.declaration
        code = f"{self.code_digest[:_SHOWN]} ({len(said['code'])} parts)"
        seed = f"{said['seed']}, order {said['order']}" + (", independent" if said.get("independent") else "")
        if said.get("precision", "float32") != "float32":
            seed += f", precision {said['precision']}"
        numerics = f"{digest(self.fingerprint)[:_SHOWN]} " + _pairs(self.fingerprint)
        facts = {
            "config": _pairs(self.config), "plan": self.plan_id[:_SHOWN], "data": said["data"][:_SHOWN],
            "code": code, "seed": seed, "numerics": numerics, "state": (self.state_digest or "none")[:_SHOWN],
        }  # fmt: skip
        title = f"{self.model} of {self.experiment}: {self.status}, {self.badge}"
        return [title, *(f"  {name:<9} {value}" for name, value in facts.items()), *map(_told, self.history)]


def lineage(folder: ExperimentFolder, model: str) -> ModelLineage:
    """Where `model` comes from; reads only.

    Raises:
        StoreError: no such experiment or model, or the catalog is damaged.
    """
    with closing(folder.reader()) as reader:
        reader.check_model(model)
        experiment, declarations = reader.experiment(), reader.declarations()
        row = next(row for row in reader.models() if row["model"] == model)
        standing = next(row for row in leaderboard(reader) if row["model"] == model)
        history = [event for event in reader.events() if event["body"].get("model") == model]
        units = reader.units(model)
    said = declarations[row["plan_id"]]
    shards = shard_digests(experiment["data"], said["data"])
    return ModelLineage(
        experiment=experiment["name"],
        model=model,
        status=row["status"],
        badge=row["badge"],
        config=row["config"],
        plan_id=row["plan_id"],
        declaration=said,
        fingerprint=experiment["fingerprint"],
        epochs=row["epochs"],
        state_digest=row["state_digest"],
        metrics=standing["metrics"],
        history=[{key: event[key] for key in ("seq", "ts", "actor", "kind", "body")} for event in history],
        units=[_link(unit, shards) for unit in units],
    )


def declaration_of(reader: CatalogReader, model: str) -> Mapping[str, Any]:
    """What a model was, or is to be, trained under."""
    row = next(row for row in reader.models() if row["model"] == model)
    return reader.declarations()[row["plan_id"]]


def shard_digests(data: str, expected: str) -> dict[str, tuple[str, ...]]:
    """The digest of each shard by split, or nothing where the dataset is not what it was."""
    try:
        dataset = open_dataset(data, expected)
    except DataError:
        return {}
    if dataset.digest != expected:
        return {}
    return {split: tuple(shard.sha256 for shard in shards) for split, shards in dataset.splits.items()}


def first_gap(units: Sequence[UnitRow], ancestor: Ancestor | None = None) -> str | None:
    """What breaks the chain of one model's units, given in order: a visit that is missing, or a state from nowhere.

    The units of a warm clone begin where the state of its ancestor was taken, and those of a model that goes on from
    an earlier cycle in the state that it had there.
    """
    state = ancestor.state_digest if ancestor else None
    start = ("train", ancestor.epoch) if ancestor else None
    for (epoch, kind), group in groupby(units, key=lambda row: (row.unit.epoch, row.unit.kind)):
        visited = len(ancestor.train_shards) if ancestor and (kind, epoch) == start else 0
        for position, row in enumerate(group, visited):
            if row.unit.position != position:
                return f"epoch {epoch}: {kind} visit {position} expected, {row.unit.position} found"
            if row.parent_digest != state:
                place = f"epoch {epoch}, {kind} visit {position}"
                return f"{place}: parent state {state} expected, {row.parent_digest} found"
            state = row.state_digest
    return None


def _link(row: UnitRow, shards: Mapping[str, Sequence[str]]) -> Link:
    unit = row.unit
    known = shards.get(unit.kind, ())
    shard = known[unit.shard] if unit.shard < len(known) else None
    return Link(
        row.unit_id, unit.kind, unit.epoch, unit.position, unit.shard, shard, row.run, row.worker, row.parent_digest,
        row.state_digest, row.kernel,
    )  # fmt: skip


def _told(event: Mapping[str, Any]) -> str:
    body = {key: value for key, value in event["body"].items() if key != "model"}
    return f"  event {event['seq']:<3} {event['kind']}  {_pairs(body)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={_SHA256.sub(_first_digits, str(value))}" for name, value in values.items())


def _first_digits(found: re.Match[str]) -> str:
    return found[0][:_SHOWN]


def _table(units: Sequence[Link]) -> list[str]:
    head = ["unit", "kind", "epoch", "visit", "shard", "run", "worker", "parent", "state", "kernel"]
    head = head if any(link.kernel for link in units) else head[:-1]
    rows = [head]
    for link in units:
        numbers = (link.epoch, link.position, link.shard, link.run, link.worker)
        digests = [(text or "-")[:_SHOWN] for text in (link.parent_digest, link.state_digest)]
        rows.append([link.unit_id[:_SHOWN], link.kind, *map(str, numbers), *digests, link.kernel][: len(head)])
    widths = [max(len(row[index]) for row in rows) for index in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
