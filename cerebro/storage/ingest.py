"""From a source to a dataset: read once, split, shuffled over all rows, cut into shards.

The source is staged as fixed-width records in its own order (`staging`); then every row gets a place (`split`), the
records are scattered by shard on disk, and one shard at a time is put in order in memory and written (`shuffle`,
`shards`). Memory is one shard, a few blocks, and about 30 bytes a row; disk, twice the rows while it goes on.
"""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from cerebro.errors import DataError
from cerebro.quantities import bytes_text, count_text
from cerebro.storage.dataset import Dataset, open_dataset
from cerebro.storage.destination import Destination
from cerebro.storage.manifest import Column, Manifest, Shard, write_manifest
from cerebro.storage.readers import open_source
from cerebro.storage.readers.base import BLOCK_BYTES, Array, Block, Reader, release_memory
from cerebro.storage.shards import write_shard
from cerebro.storage.shuffle import Scattered, scatter
from cerebro.storage.split import Arrangement, arrange, split_by_class, split_by_group, split_rows
from cerebro.storage.staging import Field, Stage, Staged, Wanted, in_order, layout

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a dataset is to be made; see `ingest`."""

    shards: int
    label: str | None
    group: str | None
    split: tuple[float, ...]
    stratify: bool
    columns: tuple[str, ...] | None
    seed: int

    def check(self) -> None:
        """Refuse what no source could satisfy.

        Raises:
            DataError: which option, its value, and what is allowed.
        """
        if not _is_whole(self.shards) or self.shards < 1:
            raise DataError(f"shards={self.shards!r}: ask for 1 or more")
        if not _is_whole(self.seed):
            raise DataError(f"seed={self.seed!r}: give a whole number")
        if not _are_fractions(self.split):
            raise DataError(
                f"split={self.split!r}: give three fractions (train, valid, test) of 0 or more that add up to 1, "
                "train above 0, such as (0.7, 0.15, 0.15)"
            )
        if self.stratify and self.label is None:
            raise DataError("stratify=True: needs a label; give label=NAME")
        if self.stratify and self.group is not None:
            raise DataError(f"stratify=True and group={self.group!r}: groups are kept whole, so give one of the two")

    def choose(self, reader: Reader) -> tuple[str, ...]:
        """The columns to read.

        Raises:
            DataError: a column that the source does not have, or one asked for twice.
        """
        have = ", ".join(reader.fields)
        chosen = tuple(reader.fields) if self.columns is None else self.columns
        asked = [("column", name) for name in chosen] + [("label", self.label), ("group", self.group)]
        for what, name in asked:
            if name is not None and name not in reader.fields:
                raise DataError(f"{what} {name!r} is not a column of {reader.name}; there are: {have}")
            if name is not None and name not in chosen:
                raise DataError(f"{what} {name!r} is not among columns={list(chosen)}: add it")
        if not chosen or len(set(chosen)) < len(chosen):
            raise DataError(f"columns={list(chosen)}: name each column once, and at least one of: {have}")
        return chosen

    def to_json(self) -> dict[str, Any]:
        """The options as the manifest has them."""
        return {
            "shards": self.shards,
            "split": [float(fraction) for fraction in self.split],
            "stratify": self.stratify,
            "columns": None if self.columns is None else list(self.columns),
            "seed": self.seed,
        }


def ingest(
    source: Any,
    destination: str | os.PathLike[str],
    *,
    shards: int = 8,
    label: str | None = None,
    group: str | None = None,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    stratify: bool = False,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """A dataset in the folder `destination`, made of all rows of `source`.

    source: a path of a Parquet, CSV or `.npz` file or of a folder of them; an Arrow table or reader; a pandas or
        polars frame, or whatever else speaks the Arrow PyCapsule protocol; or a dict of arrays `[rows, ...]`.
    shards: train shards, equal in rows; the other splits get shards of about that size.
    label, group: columns. No value of `group` is in two splits.
    split: fractions of the rows (of the groups, as near as they allow) for train, valid and test; 0 for none.
    stratify: split each class of the label by the fractions.
    columns: the columns to keep, if not all.
    seed: of split and shuffle. The same rows, seed and options give the same files, byte for byte.
    overwrite: replace the dataset in `destination`.
    progress: told `("read" | "shuffle" | "write", rows so far, rows in all if known)`.

    Numbers keep their type; booleans become uint8, times int64 (in the source's own unit), text int64 codes whose
    `classes` are in the manifest. Nulls are refused; NaN may be a feature's value, not a label's. Whatever goes
    wrong, `destination` is as it was.

    Raises:
        DataError: the source, the destination or an option is wrong, or the disk is full.
    """
    columns = (columns,) if isinstance(columns, str) else columns
    options = Options(shards, label, group, tuple(split), stratify, None if columns is None else tuple(columns), seed)
    options.check()
    place = Destination(Path(os.path.abspath(destination)), overwrite)
    place.check(source)
    reader = open_source(source)
    making = Making(reader, options, options.choose(reader), progress or _silent)
    making.check_rows(making.known_rows)
    with _writable(place.path, making), place.making() as folder:
        making.run(folder)
    return open_dataset(destination)


class Making:
    """One dataset being made: its steps, in order, and what is known about its size so far."""

    def __init__(self, reader: Reader, options: Options, columns: tuple[str, ...], progress: Progress) -> None:
        self.reader, self.options, self.columns, self.progress = reader, options, columns, progress
        self.known_rows = reader.count(columns)
        self.bytes_needed = 0

    def run(self, folder: Path) -> None:
        """Fill `folder` with shards and, last, the manifest."""
        staged = self.stage(folder / "rows")
        self.check_rows(staged.rows)
        release_memory()
        arrangement = self.arrange(staged)
        scattered = scatter(
            staged, arrangement, folder / "scattered", lambda done: self.progress("shuffle", done, staged.rows)
        )
        staged.path.unlink()
        self.write(folder, staged, arrangement, scattered)

    def check_rows(self, rows: int | None) -> None:
        """Refuse a source without rows, or with fewer than shards."""
        if rows == 0:
            raise DataError(f"{self.reader.name}: has no rows")
        if rows is not None and rows < self.options.shards:
            raise DataError(
                f"shards={self.options.shards}: {self.reader.name} has only {count_text(rows, 'row')}; "
                "ask for fewer shards"
            )

    def stage(self, path: Path) -> Staged:
        """Read the source, once."""
        blocks = self.reader.blocks(self.columns, BLOCK_BYTES)
        first = next(blocks, None)
        if first is None:
            raise DataError(f"{self.reader.name}: has no rows")
        fields = layout(first)
        self._check_fields({each.name: each for each in fields})
        self._check_space(path.parent, fields[-1].end)
        with path.open("xb") as file:
            stage = Stage(file, fields, self._wanted())
            for block in _chain(first, blocks):
                stage.add(block)
                self.bytes_needed = max(self.bytes_needed, 2 * stage.rows * fields[-1].end)
                self.progress("read", stage.rows, self.known_rows)
            return stage.finish()

    def arrange(self, staged: Staged) -> Arrangement:
        """Decide on a place for every row."""
        options = self.options
        if options.group is not None:
            groups = _ranks(staged, options.group)
            try:
                splits = split_by_group(groups, options.split, options.seed)
            except DataError as error:
                raise DataError(f"group {options.group!r}: {error}; set a fraction to 0, or split by rows") from None
        elif options.stratify:
            assert options.label is not None
            splits = split_by_class(_ranks(staged, options.label), options.split, options.seed)
        else:
            splits = split_rows(staged.rows, options.split, options.seed)
        return arrange(splits, options.shards, options.seed)

    def write(self, folder: Path, staged: Staged, arrangement: Arrangement, scattered: Scattered) -> None:
        """Write the shards, one at a time, and the manifest."""
        sorted_words = {name: in_order(words) for name, words in staged.words.items()}
        columns = {
            each.name: Column(each.dtype, each.shape, sorted_words[each.name][0] if each.is_text else None)
            for each in staged.fields
        }
        ranks = {name: ranks for name, (_, ranks) in sorted_words.items()}
        numbers, splits = count(), dict[str, tuple[Shard, ...]]()
        for split, sizes in arrangement.sizes.items():
            files = [folder / f"{split}-{index:03d}.arrow" for index in range(len(sizes))]
            splits[split] = tuple(self._write_shard(file, next(numbers), scattered, columns, ranks) for file in files)
        scattered.path.unlink()
        options = self.options
        write_manifest(
            folder, Manifest(columns, options.label, options.group, splits, staged.fingerprint, options.to_json())
        )

    def _write_shard(
        self,
        file: Path,
        number: int,
        scattered: Scattered,
        columns: Mapping[str, Column],
        ranks: Mapping[str, Array],
    ) -> Shard:
        """Write one shard; nothing of it stays in memory."""
        values = scattered.columns(number)
        for name in ranks:
            values[name] = ranks[name][values[name]]
        shard = write_shard(file, values, columns)
        self.progress("write", int(scattered.starts[number + 1]), int(scattered.starts[-1]))
        return shard

    def _wanted(self) -> Wanted:
        options = self.options
        keep = options.group if options.group is not None else options.label if options.stratify else None
        return Wanted(self.reader.name, options.label, () if keep is None else (keep,))

    def _check_fields(self, fields: dict[str, Field]) -> None:
        options, name = self.options, self.reader.name
        if options.group is not None and not fields[options.group].is_code:
            raise DataError(f"{name}: group {options.group!r} is {_kind(fields[options.group])}: give one {_CODES}")
        if options.stratify and options.label is not None and not fields[options.label].is_code:
            raise DataError(
                f"{name}: stratify=True and label {options.label!r} is {_kind(fields[options.label])}: "
                f"it needs one {_CODES}"
            )

    def _check_space(self, folder: Path, width: int) -> None:
        """Refuse what will not fit: the records are on the disk twice at a time."""
        self.bytes_needed = 2 * (self.known_rows or 0) * width
        free = shutil.disk_usage(folder).free
        if self.bytes_needed > free:
            raise DataError(_full(folder.parent, self.bytes_needed, free))


_CODES = "text or whole number a row"


@contextmanager
def _writable(path: Path, making: Making) -> Iterator[None]:
    """Turn what the system says about the destination into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(_full(path.parent, making.bytes_needed, None)) from error
        raise DataError(f"cannot write {path}: {error.strerror or error}; give another destination") from error


def _full(folder: Path, needed: int, free: int | None) -> str:
    there = "" if free is None else f", {bytes_text(free)} free"
    return f"the disk of {folder} is full: about {bytes_text(needed)} needed{there}; make room, or choose another disk"


def _ranks(staged: Staged, name: str) -> Array:
    """The distinct values of a kept column as numbers from 0, in the order of the values: `[rows]`."""
    values = staged.kept[name]
    if name in staged.words:
        return in_order(staged.words[name])[1][values]
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _kind(field: Field) -> str:
    return f"{field.dtype}{list(field.shape) if field.shape else ''}"


def _chain(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from rest


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_fractions(split: tuple[object, ...]) -> bool:
    numbers = [float(each) for each in split if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) != 3 or len(split) != 3 or not all(map(math.isfinite, numbers)):
        return False
    return min(numbers) >= 0 and numbers[0] > 0 and abs(sum(numbers) - 1) < 1e-6


def _silent(step: str, done: int, total: int | None) -> None:
    """No progress is shown."""
