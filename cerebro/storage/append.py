"""New rows join a dataset: new shards beside those that are there, and a new manifest in the place of the old.

Nothing that is there is written to. The new shards are made in a scratch folder, put beside the others, and become part
of the dataset in one rename, that of the manifest; the manifest before it is kept under another name, so that what was
trained on the data as they were can be replayed. Who appends holds a lock on the folder. What a dead process left is
removed by the next.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cerebro.errors import DataError
from cerebro.storage.crash_points import crash_point
from cerebro.storage.dataset import Dataset, open_dataset
from cerebro.storage.destination import sync
from cerebro.storage.ingest import Progress
from cerebro.storage.manifest import FILE, Column, Manifest, Shard, earlier_file, read_manifest, write_manifest
from cerebro.storage.readers import open_source
from cerebro.storage.readers.base import BLOCK_BYTES, Array, Reader
from cerebro.storage.shards import write_shard
from cerebro.storage.shuffle import Scattered, scatter
from cerebro.storage.split import (
    SPLITS,
    Arrangement,
    arrange_more,
    split_more_by_class,
    split_more_by_group,
    split_more_rows,
)
from cerebro.storage.staging import MAX_CLASSES, Stage, Staged, Wanted, layout
from cerebro.streams import stream_bytes

_SCRATCH = ".append"


def append(source: Any, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Dataset:
    """Let all rows of `source` join the dataset in the folder `path`; gives the dataset as it is then.

    source: as for `ingest`, with all columns that the dataset has, of the same types and shapes.

    They are split by the dataset's own fractions: a group that is there stays in its split, new groups go where rows
    are lacking. They are shuffled by a seed made of the dataset's and the number of the cycle, and cut into shards of
    about the size of those there. Texts that are new to a column get the next codes, so that old codes stay. Whatever
    goes wrong, the dataset is as it was.

    Raises:
        DataError: the rows do not fit the dataset, are in it already, or another process is appending.
    """
    folder = Path(path)
    open_dataset(folder)
    with _held(folder):
        _remove_leftovers(folder)
        manifest, found = read_manifest(folder)
        scratch = folder / _SCRATCH
        scratch.mkdir(mode=0o700)
        try:
            crash_point("append-begun")
            growth = _Growth(folder, manifest, found, open_source(source), progress or _silent)
            _place(folder, scratch, growth.made(scratch), len(manifest.cycles))
        except OSError as error:
            raise DataError(f"cannot write {folder}: {error.strerror or error}; make room, and append again") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return open_dataset(folder)


@dataclass(frozen=True, slots=True)
class _Growth:
    """New rows on their way into a dataset."""

    folder: Path
    manifest: Manifest
    digest: str
    reader: Reader
    progress: Progress

    def made(self, scratch: Path) -> Sequence[str]:
        """Write the new shards and the new manifest; gives the names of the shards."""
        staged = self._stage(scratch / "rows")
        self._check_new(staged)
        columns = self._columns(staged)
        arrangement = self._arrangement(staged)
        scattered = scatter(
            staged, arrangement, scratch / "scattered", lambda done: self.progress("shuffle", done, staged.rows)
        )
        added = self._shards(scratch, staged, columns, arrangement, scattered)
        splits = {split: (*self.manifest.splits.get(split, ()), *added[split]) for split in SPLITS}
        cycles = (*self.manifest.cycles, (self.digest, self.manifest.source))
        write_manifest(
            scratch, replace(self.manifest, columns=columns, splits=splits, source=staged.fingerprint, cycles=cycles)
        )
        return [shard.file for shards in added.values() for shard in shards]

    def _stage(self, path: Path) -> Staged:
        """Read the rows, once."""
        have, names = self.reader.fields, tuple(self.manifest.columns)
        if missing := [name for name in names if name not in have]:
            raise DataError(
                f"{self.reader.name} has no column {missing[0]!r}, and {self.folder} has; there are: {', '.join(have)}"
            )
        blocks = self.reader.blocks(names, BLOCK_BYTES)
        first = next(blocks, None)
        if first is None:
            raise DataError(f"{self.reader.name}: has no rows")
        with path.open("xb") as file:
            stage = Stage(file, layout(first), self._wanted())
            for block in chain([first], blocks):
                stage.add(block)
                self.progress("read", stage.rows, None)
            staged = stage.finish()
        if not staged.rows:
            raise DataError(f"{self.reader.name}: has no rows")
        return staged

    def _wanted(self) -> Wanted:
        manifest = self.manifest
        keep = manifest.group or (manifest.label if manifest.options.get("stratify") else None)
        return Wanted(self.reader.name, manifest.label, () if keep is None else (keep,), may_be_one_class=True)

    def _check_new(self, staged: Staged) -> None:
        """Refuse rows that are in the dataset already: an append that is tried again must not double them."""
        sources = [*(source for _, source in self.manifest.cycles), self.manifest.source]
        if staged.fingerprint in sources:
            raise DataError(
                f"the rows of {self.reader.name} are in {self.folder} already, since cycle "
                f"{sources.index(staged.fingerprint)}: append only what is new"
            )

    def _columns(self, staged: Staged) -> dict[str, Column]:
        """The columns, with texts that are new to them after those that are there."""
        columns = dict(self.manifest.columns)
        for each in staged.fields:
            column = columns[each.name]
            if (each.dtype, each.shape, each.is_text) != (column.dtype, column.shape, column.classes is not None):
                found = _kind(each.dtype, each.shape, each.is_text)
                wanted = _kind(column.dtype, column.shape, column.classes is not None)
                raise DataError(
                    f"{self.reader.name}: column {each.name!r} is {found}, and {wanted} in {self.folder}: give it that "
                    "type"
                )
            if column.classes is not None:
                new = sorted(set(staged.words[each.name]) - set(column.classes))
                if len(column.classes) + len(new) > MAX_CLASSES:
                    raise DataError(f"column {each.name!r} would have more than {MAX_CLASSES:,} distinct texts")
                columns[each.name] = replace(column, classes=(*column.classes, *new))
        return columns

    def _arrangement(self, staged: Staged) -> Arrangement:
        manifest = self.manifest
        cycle, fractions = len(manifest.cycles) + 1, manifest.options["split"]
        seed = int.from_bytes(stream_bytes((manifest.options["seed"], "append", cycle), 7), "little")
        if manifest.group is not None:
            names, groups = np.unique(_values(staged, manifest.group), return_inverse=True)
            there = self._split_of_groups(manifest.group)
            known = np.array([there.get(name, -1) for name in names.tolist()])
            before = [sum(shard.rows for shard in manifest.splits.get(split, ())) for split in SPLITS]
            splits = split_more_by_group(groups.reshape(-1), known, before, fractions, seed)
        elif manifest.options.get("stratify") and manifest.label is not None:
            classes = np.unique(_values(staged, manifest.label), return_inverse=True)[1].reshape(-1)
            splits = split_more_by_class(classes, fractions, seed)
        else:
            splits = split_more_rows(staged.rows, fractions, seed)
        return arrange_more(splits, max(shard.rows for shard in manifest.splits["train"]), seed)

    def _split_of_groups(self, group: str) -> dict[Any, int]:
        """The split of each group that is there."""
        dataset, classes = open_dataset(self.folder), self.manifest.columns[group].classes
        found = dict[Any, int]()
        for number, split in enumerate(SPLITS):
            for index in range(len(dataset.splits.get(split, ()))):
                with dataset.shard(split, index, verify=True) as shard:
                    values = np.unique(shard.columns[group]).tolist()
                found |= {value if classes is None else classes[value]: number for value in values}
        return found

    def _shards(
        self,
        scratch: Path,
        staged: Staged,
        columns: Mapping[str, Column],
        arrangement: Arrangement,
        scattered: Scattered,
    ) -> dict[str, list[Shard]]:
        """Write the new shards, numbered after those that are there."""
        codes = {name: _codes(columns[name].classes or (), words) for name, words in staged.words.items()}
        added, number = dict[str, list[Shard]](), 0
        for split, sizes in arrangement.sizes.items():
            first, added[split] = len(self.manifest.splits.get(split, ())), []
            for index in range(first, first + len(sizes)):
                values = scattered.columns(number)
                values |= {name: code[values[name]] for name, code in codes.items()}
                added[split].append(write_shard(scratch / f"{split}-{index:03d}.arrow", values, columns))
                number += 1
                self.progress("write", int(scattered.starts[number]), staged.rows)
        return added


def _place(folder: Path, scratch: Path, shards: Sequence[str], cycle: int) -> None:
    """Let what was made become part of the dataset: the rename of the manifest is the moment."""
    crash_point("append-written")
    for name in shards:
        (scratch / name).rename(folder / name)
    sync(folder)
    crash_point("append-shards-placed")
    (folder / earlier_file(cycle)).unlink(missing_ok=True)  # of one that died at the next line
    os.link(folder / FILE, folder / earlier_file(cycle))
    sync(folder)
    crash_point("append-manifest-kept")
    (scratch / FILE).replace(folder / FILE)
    sync(folder)
    crash_point("append-ended")


def _remove_leftovers(folder: Path) -> None:
    """Remove the shards of an append that did not come to its end; the folder is held."""
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    dataset = open_dataset(folder)
    known = {shard.file for shards in dataset.splits.values() for shard in shards}
    for file in folder.glob("*-*.arrow"):
        if file.name not in known:
            file.unlink()
    (folder / earlier_file(dataset.cycle)).unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder, so that nobody else appends; the system lets go if this process dies."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is appending to {folder} now: wait for it, and append then") from None


def _codes(classes: Sequence[str], words: Sequence[str]) -> Array:
    """For each index into `words` its code."""
    code_of = {word: code for code, word in enumerate(classes)}
    return np.array([code_of[word] for word in words], np.int64)


def _values(staged: Staged, name: str) -> Array:
    """The values of a kept column; texts as texts."""
    values = staged.kept[name]
    return np.array(staged.words[name])[values] if name in staged.words else values


def _kind(dtype: str, shape: tuple[int, ...], is_text: bool) -> str:
    return "text" if is_text else f"{dtype}{list(shape) if shape else ''}"


def _silent(step: str, done: int, total: int | None) -> None:
    """No progress is shown."""
