"""What every reader gives: named columns, read once, in blocks of rows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cerebro.errors import DataError

Array = NDArray[Any]
Shape = tuple[int, ...]

BLOCK_BYTES = 8 << 20
"""About how many bytes of values a reader gives at once."""


@dataclass(frozen=True, slots=True)
class Strings:
    """A column of text in a block: the distinct words by first appearance, and for each row the index of its word."""

    words: tuple[str, ...]
    indices: Array


Values = Array | Strings
"""The rows of one column: an array `[rows, *shape]` of uint, int or float, or strings."""

Block = Mapping[str, Values]


@dataclass(frozen=True)
class Reader(ABC):
    """A source of rows.

    Duties of a reader: opening it reads no more than its head; `blocks` goes through the rows once, in the source's
    order and in memory bounded by `block_bytes`, not by the source; values do not depend on `block_bytes`; what
    cannot be read is a DataError that names the source, and the column and row where there is one.
    """

    name: str
    """What messages call the source."""
    fields: Mapping[str, str]
    """A text for the type of each column, in the source's order."""

    @abstractmethod
    def count(self, columns: Sequence[str]) -> int | None:
        """The number of rows, or None where only reading tells.

        Raises:
            DataError: these columns have unequal lengths.
        """

    @abstractmethod
    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows of `columns`, in order; a block has at least one row.

        Raises:
            DataError: the source is damaged, or holds values that a dataset cannot.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a source a block of a column starts; what messages say about its rows."""

    source: str
    column: str
    first_row: int = 0

    def error(self, what: str, row: int | None = None) -> DataError:
        """The error that this column, at `row` of the block, is `what`."""
        where = "" if row is None else f" in row {self.first_row + row:,} (rows count from 0)"
        return DataError(f"{self.source}: column {self.column!r} {what.replace('{where}', where)}")

    def null(self, row: int) -> DataError:
        """The error that there is no value at `row` of the block."""
        return self.error("has a null{where}: fill it, or leave the row out", row)

    def ragged(self, row: int, found: Shape, expected: Shape) -> DataError:
        """The error that `row` of the block is of another shape than the rows before it."""
        return self.error(
            f"is ragged: shape {list(found)}{{where}}, {list(expected)} in the rows before; "
            "pad or cut the rows to one shape",
            row,
        )


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what libraries raise about a source into a DataError that names it."""
    import zipfile
    import zlib

    import pyarrow as pa

    try:
        yield
    except (OSError, EOFError, ValueError, RuntimeError, pa.ArrowException, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{name}: cannot be read: {str(error).rstrip('. ')}") from error


def release_memory() -> None:
    """Return to the system what Arrow keeps for further reading."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def block_rows(row_bytes: int, block_bytes: int) -> int:
    """How many rows of `row_bytes` make a block."""
    return max(1, block_bytes // max(1, row_bytes))
