"""A dataset: rows shuffled once with a seed, split, and cut into shards that are mapped and read in place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cerebro.errors import DataError
from cerebro.quantities import bytes_text, count_text
from cerebro.storage.manifest import Column, Shard, earlier_file, read_manifest
from cerebro.storage.shards import OpenShard, check_shard, drop_shard, open_shard

__all__ = ["Column", "Dataset", "OpenShard", "Shard", "open_dataset"]


@dataclass(frozen=True, slots=True, repr=False)
class Dataset:
    """A folder of shards and what its manifest says about them.

    columns: name -> dtype and shape of a row, and the classes of what was text.
    splits: `train`, `valid` and `test` -> their shards; a split may have none.
    digest: SHA-256 of the manifest, and so of all data.
    source: SHA-256 of the rows it was made of, whatever file they came from.
    """

    path: Path
    columns: Mapping[str, Column]
    label: str | None
    group: str | None
    splits: Mapping[str, tuple[Shard, ...]]
    digest: str
    source: str
    options: Mapping[str, Any] = field(hash=False)
    earlier: tuple[str, ...] = ()
    """The digests that it had before it grew, oldest first."""

    @property
    def cycle(self) -> int:
        """How often it has grown."""
        return len(self.earlier)

    def rows(self, split: str) -> int:
        """Rows of a split.

        Raises:
            DataError: no such split.
        """
        return sum(shard.rows for shard in self._shards(split))

    def shard(self, split: str, index: int, *, verify: bool = False) -> OpenShard:
        """A shard, mapped into memory; with `verify`, after reading it whole and comparing its hash.

        Raises:
            DataError: no such split or shard, or its file is missing or damaged.
        """
        shards = self._shards(split)
        if not 0 <= index < len(shards):
            raise DataError(f"{self.path}: {split} has {count_text(len(shards), 'shard')}, there is no shard {index}")
        shard = shards[index]
        if verify:
            check_shard(self.path / shard.file, shard)
        return open_shard(self.path / shard.file, shard, self.columns)

    def stamp(self, split: str, index: int) -> tuple[int, ...]:
        """What changes when somebody writes to a shard's file: its number, size, and time of change.

        Raises:
            DataError: its file is missing.
        """
        path = self.path / self._shards(split)[index].file
        try:
            status = path.stat()
        except OSError:
            raise DataError(f"{path} is missing: restore it, or ingest the source again") from None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def drop(self, split: str, index: int) -> None:
        """Let memory forget a shard that nobody has open."""
        drop_shard(self.path / self._shards(split)[index].file)

    def verify(self) -> None:
        """Read every shard and compare its hash.

        Raises:
            DataError: a file is missing, or has changed: which, the hash expected and the hash found.
        """
        for shards in self.splits.values():
            for shard in shards:
                check_shard(self.path / shard.file, shard)

    def describe(self) -> str:
        """A table of the columns and the splits."""
        every = [shard for shards in self.splits.values() for shard in shards]
        rows, size = sum(shard.rows for shard in every), sum(shard.bytes for shard in every)
        head = f"{self.path}: {count_text(rows, 'row')}, {bytes_text(size)}, digest {self.digest[:12]}"
        columns = [("column", "dtype", "shape", "")]
        columns += [(n, c.dtype, str(list(c.shape)) if c.shape else "", self._note(n)) for n, c in self.columns.items()]
        splits = [("split", "shards", "rows", "size")]
        for split, shards in self.splits.items():
            size = bytes_text(sum(shard.bytes for shard in shards))
            splits.append((split, f"{len(shards):,}", f"{self.rows(split):,}", size if shards else ""))
        return "\n".join([head, "", *_table(columns), "", *_table(splits)])

    def __repr__(self) -> str:
        rows = sum(map(self.rows, self.splits))
        shards = " + ".join(f"{len(shards)} {split}" for split, shards in self.splits.items())
        return f"Dataset({str(self.path)!r}, {rows:,} rows, shards {shards}, label {self.label!r})"

    def _shards(self, split: str) -> tuple[Shard, ...]:
        if split not in self.splits:
            raise DataError(f"{self.path}: there is no split {split!r}, only {', '.join(self.splits)}")
        return self.splits[split]

    def _note(self, name: str) -> str:
        classes = self.columns[name].classes
        notes = [word for word, at in (("label", self.label), ("group", self.group)) if at == name]
        if classes is not None:
            few = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
            notes.append(f"{len(classes):,} classes: {few}")
        return ", ".join(notes)


def open_dataset(path: str | os.PathLike[str], digest: str | None = None) -> Dataset:
    """The dataset in a folder, or what it was when it had this `digest`; its shards are looked for, but not read.

    Raises:
        DataError: no dataset there, one of a newer format, or one with a manifest or shards missing or damaged.
    """
    folder = Path(path)
    manifest, found = read_manifest(folder)
    earlier = [before for before, _ in manifest.cycles]
    if digest in earlier:
        manifest, found = read_manifest(folder, earlier_file(earlier.index(digest)))
        if found != digest:
            raise DataError(f"{folder / earlier_file(earlier.index(digest))} is not what it was: restore it")
    for shards in manifest.splits.values():
        for shard in shards:
            _check_size(folder / shard.file, shard.bytes)
    return Dataset(
        folder,
        MappingProxyType(dict(manifest.columns)),
        manifest.label,
        manifest.group,
        MappingProxyType(dict(manifest.splits)),
        found,
        manifest.source,
        MappingProxyType(dict(manifest.options)),
        tuple(before for before, _ in manifest.cycles),
    )


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError:
        raise DataError(f"{path} is missing: restore it, or ingest the source again") from None
    if found != expected:
        raise DataError(
            f"{path} is damaged: {expected:,} bytes expected, {found:,} found; restore it, or ingest the source again"
        )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
