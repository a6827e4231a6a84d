"""Which derived columns are written to the store, by cost (the choice of Nautilus, SIGMOD 2022, section 4).

A column is worth storing where reading it on each visit costs less than computing it as often as it would be else: once
on each worker if all columns fit into memory, and otherwise once an epoch for the models that come by meanwhile. Which
of them have room is a knapsack; the choice says how far from the best it may be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cerebro.optimizer.knapsack import Item, pick
from cerebro.storage.disk import DiskSpeed

Place = tuple[str, int]
"""A split and the index of a shard."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A computation that several models begin with."""

    key: str
    name: str
    models: int
    epochs: int
    """The sum over the models of the epochs that they are to train."""
    row_seconds: float
    row_bytes: float

    @property
    def rounds(self) -> float:
        """Epochs of each model."""
        return self.epochs / self.models


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done about one prefix, and what it comes to."""

    prefix: Prefix
    stored: tuple[Place, ...]
    stored_bytes: float
    seconds: float
    """On all workers together, over the whole run."""
    recompute_seconds: float
    """What computing it on every visit would take."""


@dataclass(frozen=True, slots=True)
class Room:
    """What columns may take."""

    budget_bytes: float
    """On the disk."""
    memory_bytes: float
    """In the memory of each worker."""
    workers: int
    disk: DiskSpeed = field(default_factory=DiskSpeed)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is done about all prefixes."""

    choices: tuple[Choice, ...]
    gap: float
    """No choice of what is stored takes less than this share less time."""
    by: str
    """How it was found: `program` or `greedy`; empty where all that pays has room."""


def choose(prefixes: Sequence[Prefix], rows: Mapping[Place, int], room: Room, always: bool = False) -> Chosen:
    """What to do about each prefix on shards of so many `rows`; with `always` all is stored that there is room for."""
    total_bytes = sum(prefix.row_bytes for prefix in prefixes) * sum(rows.values())
    fits = total_bytes <= room.memory_bytes
    candidates = [(index, place) for index in range(len(prefixes)) for place in rows]
    items = list[Item]()
    for index, place in candidates:
        prefix, count = prefixes[index], rows[place]
        otherwise = shared_seconds(prefix, count, room.workers, fits)
        saved = max(otherwise, 1e-6) if always else otherwise - stored_seconds(prefix, count, room.disk)
        items.append(Item(saved, prefix.row_bytes * count))
    picked = pick(items, room.budget_bytes)
    stored = dict[int, list[Place]]()
    for index, place in (candidates[number] for number in picked.items):
        stored.setdefault(index, []).append(place)
    choices = [_choice(prefix, stored.get(i, []), rows, room, fits) for i, prefix in enumerate(prefixes)]
    seconds = sum(choice.seconds for choice in choices)
    if always or not seconds:  # what is best was not asked
        return Chosen(tuple(choices), 0.0, "")
    return Chosen(tuple(choices), min(1.0, (picked.at_most_seconds - picked.saved_seconds) / seconds), picked.by)


def recomputed_seconds(prefix: Prefix, rows: int) -> float:
    """Computing a column on every visit."""
    return prefix.epochs * rows * prefix.row_seconds


def shared_seconds(prefix: Prefix, rows: int, workers: int, fits: bool) -> float:
    """Computing a column in each worker that needs it, and keeping it in memory while there is room."""
    once_each = min(workers, prefix.models)
    return (once_each if fits else once_each * prefix.rounds) * rows * prefix.row_seconds


def stored_seconds(prefix: Prefix, rows: int, disk: DiskSpeed) -> float:
    """Computing a column once, writing it, and reading it on every visit."""
    size = rows * prefix.row_bytes
    write, read = size / disk.write_bytes_per_second, size / disk.read_bytes_per_second
    return rows * prefix.row_seconds + write + prefix.epochs * read


def _choice(prefix: Prefix, stored: list[Place], rows: Mapping[Place, int], room: Room, fits: bool) -> Choice:
    seconds = sum(
        stored_seconds(prefix, count, room.disk)
        if place in stored
        else shared_seconds(prefix, count, room.workers, fits)
        for place, count in rows.items()
    )
    size = sum(rows[place] for place in stored) * prefix.row_bytes
    again = sum(recomputed_seconds(prefix, count) for count in rows.values())
    return Choice(prefix, tuple(sorted(stored)), size, seconds, again)
