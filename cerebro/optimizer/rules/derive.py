"""Derived columns: what frozen sub-modules and views give is stored, shared, or computed on each visit, by cost.

Before:

    Select  best valid.accuracy (max)
    └─ Train  4 models {lr} × 2 epochs, order same, seed 0
       └─ Scan  toy.shards: train 200 rows in 2 shards, valid 40 rows in 1 shard

After:

    Select  best valid.accuracy (max)
    └─ Train  4 models {lr} × 2 epochs, order same, seed 0
       ├─ Materialize  backbone (512 B a row) for 4 models, 120.0 KiB stored; else computed 8×
       └─ Scan  toy.shards: train 200 rows in 2 shards, valid 40 rows in 1 shard
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cerebro.optimizer.given import Given
from cerebro.optimizer.materialize import (
    Choice,
    Chosen,
    Place,
    Prefix,
    Room,
    choose,
    recomputed_seconds,
    shared_seconds,
    stored_seconds,
)
from cerebro.optimizer.rule import Option
from cerebro.plan.cost import Profile
from cerebro.plan.features import Features
from cerebro.plan.logical import Scan, Select, Train
from cerebro.plan.physical import Hop, InBatch, Materialize
from cerebro.quantities import bytes_text, count_text, seconds_text

_FOUND = {"program": "by an integer program", "greedy": "chosen greedily"}


def derive(root: Select, given: Given) -> Iterator[Option]:
    """The ways to come by what models derive; where nothing is shared, the tree says why."""
    train, work = root.train, given.work
    assert isinstance(train, Train), "columns are derived of what is scanned"
    prefixes, in_batch = _prefixes(work.profiles, work.epochs_left(train.epochs)), _in_batch(work.profiles)
    rows = _rows(train.scan)

    def option(text: str, choices: Sequence[Choice], otherwise: str) -> Option:
        nodes = (*(_node(choice, rows, otherwise) for choice in choices), *in_batch)
        return Option(text, replace(root, train=replace(train, derived=nodes)), needed=True)

    if not prefixes:
        if in_batch:
            yield option("nothing is derived alike", (), "Share")
        return
    mode, room = given.means.features.mode, _room(given)
    shared = choose(prefixes, rows, replace(room, budget_bytes=0)).choices
    if mode in ("auto", "materialize"):
        chosen = choose(prefixes, rows, room, always=mode == "materialize")
        stored = chosen.choices
        if any(choice.stored for choice in stored):
            yield option(f"store {_stored_text(chosen, room)}", stored, "Share")
        yield from (_not_stored(choice, rows, room) for choice in stored if len(choice.stored) < len(rows))
        if mode == "materialize" and any(choice.stored for choice in stored):
            return
    if mode != "recompute":
        yield option("share in the memory of each worker", shared, "Share")
    if mode in ("auto", "recompute"):
        again = [replace(choice, seconds=choice.recompute_seconds) for choice in shared]
        yield option("compute on each visit", again, "Recompute")


def features_of_tree(hop: Hop, features: Features) -> Features:
    """What workers are to do about derived columns, as a tree says."""
    nodes = [node for node in hop.derived if isinstance(node, Materialize)]
    if not nodes:
        return features
    again = all(node.otherwise == "Recompute" for node in nodes)
    stored = tuple((node.key, *place) for node in nodes for place in node.stored)
    return replace(features, stored=stored, mode="recompute" if again else features.mode)


def _room(given: Given) -> Room:
    features = given.means.features
    return Room(min(features.budget_bytes, given.disk_bytes), features.memory_bytes, given.means.workers, given.disk)


def _prefixes(profiles: Mapping[str, Profile], epochs: Mapping[str, int]) -> list[Prefix]:
    """What models begin with, those with the same key together."""
    found = dict[str, Prefix]()
    for model, left in epochs.items():
        for part in profiles[model].derived:
            if part.note or not left:
                continue
            before = found.get(part.key) or Prefix(part.key, part.name, 0, 0, part.row_seconds, part.row_bytes)
            found[part.key] = replace(before, models=before.models + 1, epochs=before.epochs + left)
    return list(found.values())


def _in_batch(profiles: Mapping[str, Profile]) -> tuple[InBatch, ...]:
    found = Counter((part.name, part.note) for profile in profiles.values() for part in profile.derived if part.note)
    return tuple(InBatch(name, models, reason) for (name, reason), models in found.items())


def _rows(scan: Scan) -> dict[Place, int]:
    train = {("train", index): rows for index, rows in enumerate(scan.train_rows)}
    return train | {("valid", index): rows for index, rows in enumerate(scan.valid_rows)}


def _stored_text(chosen: Chosen, room: Room) -> str:
    names = ", ".join(choice.prefix.name for choice in chosen.choices if choice.stored)
    gap = f"{_FOUND[chosen.by]}: at most {chosen.gap:.1%} from the best; " if chosen.by else ""
    write, read = bytes_text(room.disk.write_bytes_per_second), bytes_text(room.disk.read_bytes_per_second)
    return (
        f"{names} on the disk, {bytes_text(sum(choice.stored_bytes for choice in chosen.choices))} "
        f"({gap}it writes {write}/s, reads {read}/s)"
    )


def _not_stored(choice: Choice, rows: Mapping[Place, int], room: Room) -> Option:
    """Why a prefix is not stored, or not for all shards."""
    prefix, left = choice.prefix, {place: count for place, count in rows.items() if place not in choice.stored}
    size = prefix.row_bytes * sum(left.values())
    otherwise = min(_shared(prefix, left, room), sum(recomputed_seconds(prefix, count) for count in left.values()))
    stored = sum(stored_seconds(prefix, count, room.disk) for count in left.values())
    if stored < otherwise:
        why = f"{bytes_text(size)} more do not fit: {bytes_text(room.budget_bytes)} of the disk may be used"
    else:
        why = f"to write and read them takes {seconds_text(stored)}, to compute them {seconds_text(otherwise)}"
    return Option(f"store {prefix.name} for {count_text(len(left), 'shard')}", why_not=why)


def _shared(prefix: Prefix, rows: Mapping[Place, int], room: Room) -> float:
    fits = prefix.row_bytes * sum(rows.values()) <= room.memory_bytes
    return sum(shared_seconds(prefix, count, room.workers, fits) for count in rows.values())


def _node(choice: Choice, rows: Mapping[Place, int], otherwise: str) -> Materialize:
    prefix, total = choice.prefix, sum(rows.values())
    return Materialize(
        name=prefix.name,
        models=prefix.models,
        rounds=round(prefix.epochs),
        row_bytes=prefix.row_bytes,
        stored_bytes=choice.stored_bytes,
        stored_share=sum(rows[place] for place in choice.stored) / total,
        otherwise=otherwise,
        seconds=choice.seconds,
        recompute_seconds=choice.recompute_seconds,
        key=prefix.key,
        stored=choice.stored,
        unstored_bytes=prefix.row_bytes * total - choice.stored_bytes,
        visit_row_seconds=choice.seconds / (prefix.epochs * total),
    )
