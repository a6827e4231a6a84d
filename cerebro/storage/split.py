"""Which row goes where: the split, the shuffle and the cut into shards, all as functions of a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.errors import DataError
from cerebro.quantities import count_text
from cerebro.storage.readers.base import Array
from cerebro.streams import generator, permutation

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where every row goes.

    slots: `[rows]` int64, the place of each source row; places count through the shards in order.
    sizes: split -> rows of each of its shards.
    """

    slots: Array
    sizes: Mapping[str, tuple[int, ...]]


def arrange(splits: Array, shards: int, seed: int) -> Arrangement:
    """The shuffled places of rows whose split is `splits` `[rows]` (indices into SPLITS).

    One permutation of all rows decides the order within the splits.
    """
    return Arrangement(_slots(splits, seed), shard_sizes(_counts(splits), shards))


def arrange_more(splits: Array, full: int, seed: int) -> Arrangement:
    """As `arrange`, for rows that join a dataset: in as many shards of about `full` rows as they fill."""
    sizes = {split: _even(rows, -(-rows // full)) for split, rows in zip(SPLITS, _counts(splits), strict=True)}
    return Arrangement(_slots(splits, seed), sizes)


def _slots(splits: Array, seed: int) -> Array:
    order = permutation(len(splits), (seed, "ingest", "shuffle"))
    order = order[np.argsort(splits[order], kind="stable")]
    slots = np.empty(len(splits), np.int64)
    slots[order] = np.arange(len(splits))
    return slots


def _counts(splits: Array) -> list[int]:
    return [int(count) for count in np.bincount(splits, minlength=len(SPLITS))]


def shard_sizes(rows: Sequence[int], shards: int) -> dict[str, tuple[int, ...]]:
    """The rows of each shard: `shards` for train, and as many of about that size as the other splits fill.

    Raises:
        DataError: fewer train rows than shards.
    """
    if rows[0] < shards:
        raise DataError(f"shards={shards}: {count_text(rows[0], 'train row')} cannot fill them; ask for fewer shards")
    full = -(-rows[0] // shards)
    numbers = (shards, *(-(-count // full) for count in rows[1:]))
    return {split: _even(count, number) for split, count, number in zip(SPLITS, rows, numbers, strict=True)}


def split_rows(rows: int, fractions: Sequence[float], seed: int) -> Array:
    """The split of each row, by fractions: `[rows]` int8.

    Raises:
        DataError: so few rows that a split would be empty.
    """
    return _not_empty(split_more_rows(rows, fractions, seed), fractions, count_text(rows, "row"))


def split_more_rows(rows: int, fractions: Sequence[float], seed: int) -> Array:
    """As `split_rows`; of a few rows a split may get none."""
    counts = _apportion(rows, fractions, np.zeros(len(SPLITS)))
    splits = np.empty(rows, np.int8)
    splits[permutation(rows, (seed, "ingest", "split"))] = np.repeat(np.arange(len(SPLITS), dtype=np.int8), counts)
    return splits


def split_by_class(classes: Array, fractions: Sequence[float], seed: int) -> Array:
    """The split of each row, by fractions of each class: `[rows]` int8; a class is at most one row off in a split.

    Raises:
        DataError: so few rows that a split would be empty.
    """
    return _not_empty(split_more_by_class(classes, fractions, seed), fractions, count_text(len(classes), "row"))


def split_more_by_class(classes: Array, fractions: Sequence[float], seed: int) -> Array:
    """As `split_by_class`; of a few rows a split may get none."""
    draws, owed = generator((seed, "ingest", "split")), np.zeros(len(SPLITS))
    splits = np.empty(len(classes), np.int8)
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes))
    for members in np.split(order, ends[:-1]):
        counts = _apportion(len(members), fractions, owed)
        owed += np.multiply(fractions, len(members)) - counts
        splits[draws.permutation(members)] = np.repeat(np.arange(len(SPLITS), dtype=np.int8), counts)
    return splits


def split_more_by_group(
    groups: Array, known: Array, before: Sequence[int], fractions: Sequence[float], seed: int
) -> Array:
    """The split of each row that joins: `[rows]` int8; a group that is there already stays in its split.

    known: `[groups]`, the split of each group, -1 for new ones. before: the rows that each split has. New groups, in
    an order drawn by the seed, go to the split that lacks most rows.
    """
    sizes, split_of = np.bincount(groups, minlength=len(known)), known.astype(np.int8)
    wanted = [split for split, fraction in enumerate(fractions) if fraction > 0]
    lacking = np.multiply(fractions, len(groups) + sum(before)) - before
    for group in np.flatnonzero(known >= 0):
        lacking[known[group]] -= sizes[group]
    for group in permutation(len(known), (seed, "ingest", "split")):
        if known[group] < 0:
            split = max(wanted, key=lambda candidate: (lacking[candidate], -candidate))
            split_of[group] = split
            lacking[split] -= sizes[group]
    return split_of[groups]


def split_by_group(groups: Array, fractions: Sequence[float], seed: int) -> Array:
    """The split of each row such that no group is in two splits: `[rows]` int8.

    Groups, in an order drawn by the seed, go to the split that lacks most rows, and to the empty ones while there
    are just enough groups left.

    Raises:
        DataError: fewer groups than splits.
    """
    sizes = np.bincount(groups)
    wanted = [split for split, fraction in enumerate(fractions) if fraction > 0]
    if len(sizes) < len(wanted):
        raise DataError(f"{count_text(len(sizes), 'distinct value')} cannot fill {len(wanted)} splits")
    lacking = np.multiply(fractions, len(groups))
    split_of = np.empty(len(sizes), np.int8)
    empty = set(wanted)
    for position, group in enumerate(permutation(len(sizes), (seed, "ingest", "split"))):
        must_fill = len(sizes) - position <= len(empty)
        split = max(empty if must_fill else wanted, key=lambda candidate: (lacking[candidate], -candidate))
        split_of[group] = split
        lacking[split] -= sizes[group]
        empty.discard(split)
    return split_of[groups]


def _apportion(rows: int, fractions: Sequence[float], owed: Any) -> Array:
    """Whole numbers of rows that add up to `rows`: the fractions rounded, in favour of splits that are `owed` rows."""
    shares = np.multiply(fractions, rows)
    counts = np.floor(shares + 1e-9).astype(np.int64)
    claims = np.where(shares - counts > 1e-9, shares - counts + owed, -np.inf)
    counts[np.argsort(-claims, kind="stable")[: rows - counts.sum()]] += 1
    return counts


def _not_empty(splits: Array, fractions: Sequence[float], rows: str) -> Array:
    counts = np.bincount(splits, minlength=len(SPLITS))
    for name, fraction, count in zip(SPLITS, fractions, counts, strict=True):
        if fraction > 0 and not count:
            raise DataError(
                f"split={tuple(fractions)}: {rows} are too few to give {name} any; give more rows, or 0 for {name}"
            )
    return splits


def _even(rows: int, number: int) -> tuple[int, ...]:
    if not number:
        return ()
    size, larger = divmod(rows, number)
    return tuple(size + (index < larger) for index in range(number))
