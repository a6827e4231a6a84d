"""Where a model goes on after its driver ended: a fold over the units that the catalog remembers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.messages import Unit
from cerebro.plan.workload import Done
from cerebro.storage.catalog import UnitRow

_BEGINNING = Done()


@dataclass(frozen=True, slots=True)
class Finish:
    """What makes a unit the last of its kind in an epoch."""

    train_visits: int
    valid_visits: int

    def ends_split(self, unit: Unit) -> bool:
        visits = self.train_visits if unit.kind == "train" else self.valid_visits
        return unit.position == visits - 1

    def ends_epoch(self, unit: Unit) -> bool:
        return self.ends_split(unit) and (unit.kind == "valid" or not self.valid_visits)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What is left of a model's past."""

    done: Done
    kept: tuple[UnitRow, ...]
    forgotten: tuple[UnitRow, ...]
    """Units whose results were not durable: they are run again."""
    state_digest: str | None


def resumption(
    rows: Sequence[UnitRow], checkpoint: Mapping[str, Any] | None, finish: Finish, start: Done = _BEGINNING
) -> Resumption:
    """Where a model goes on, from its finished units in order and its last durable state; without any, at `start`."""
    last = _index_of_checkpoint(rows, checkpoint)
    kept = list(rows[: last + 1])
    # Validation does not change a state: what was measured on the durable one still holds.
    for row in rows[last + 1 :]:
        if row.unit.kind != "valid" or checkpoint is None or row.state_digest != checkpoint["state_digest"]:
            break
        kept.append(row)
    digest = checkpoint["state_digest"] if checkpoint is not None else None
    return Resumption(_done(kept, finish, start), tuple(kept), tuple(rows[len(kept) :]), digest)


def _index_of_checkpoint(rows: Sequence[UnitRow], checkpoint: Mapping[str, Any] | None) -> int:
    """The index of the train unit whose state is durable; -1 if there is none, as where an ancestor made it."""
    if checkpoint is None:
        return -1
    place = ("train", checkpoint["epoch"], checkpoint["position"])
    places = ((i, (row.unit.kind, row.unit.epoch, row.unit.position)) for i, row in enumerate(rows))
    return next((i for i, found in places if found == place), -1)


def _done(rows: Sequence[UnitRow], finish: Finish, start: Done) -> Done:
    if not rows:
        return start
    last = rows[-1].unit
    if finish.ends_epoch(last):
        return Done(epoch=last.epoch + 1)
    visits = [row.unit for row in rows if row.unit.epoch == last.epoch]
    before = start.train_shards if start.epoch == last.epoch else ()
    shards = (*before, *(unit.shard for unit in visits if unit.kind == "train"))
    return Done(last.epoch, shards, sum(unit.kind == "valid" for unit in visits))
