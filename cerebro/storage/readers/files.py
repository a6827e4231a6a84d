"""A folder of files of one kind, one after another in the order of their names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cerebro.errors import DataError
from cerebro.storage.readers.base import Block, Reader


@dataclass(frozen=True)
class FolderReader(Reader):
    """The rows of several files with the same columns."""

    readers: tuple[Reader, ...]

    def count(self, columns: Sequence[str]) -> int | None:
        """The number of rows, where all files know it."""
        counts = [reader.count(columns) for reader in self.readers]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows of the files, in the order of their names."""
        for reader in self.readers:
            yield from reader.blocks(columns, block_bytes)


def open_folder(path: Path, kinds: Mapping[str, Callable[[Path], Reader]]) -> Reader:
    """The reader of all files of one of `kinds` below `path`; hidden ones and those that begin with `_` are left out.

    Raises:
        DataError: no such file, several kinds, or files with different columns.
    """
    found = sorted(file for file in path.rglob("*") if _is_data(file.relative_to(path)) and file.is_file())
    usable = [file for file in found if file.suffix.lower() in kinds]
    if not usable:
        raise DataError(f"source: the folder {path} holds no file of {', '.join(kinds)}")
    suffixes = sorted({file.suffix.lower() for file in usable})
    if len({kinds[suffix] for suffix in suffixes}) > 1:
        raise DataError(f"source: the folder {path} mixes {', '.join(suffixes)}: keep one kind in a folder")
    readers = tuple(kinds[file.suffix.lower()](file) for file in usable)
    for reader in readers[1:]:
        _same_fields(readers[0], reader)
    return FolderReader(path.name, readers[0].fields, readers)


def _is_data(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _same_fields(one: Reader, other: Reader) -> None:
    for column in {**one.fields, **other.fields}:
        ours, theirs = (reader.fields.get(column, "missing") for reader in (one, other))
        if ours != theirs:
            raise DataError(
                f"mixed columns: {column!r} is {ours} in {one.name} and {theirs} in {other.name}; "
                "write the files with the same columns and types"
            )
