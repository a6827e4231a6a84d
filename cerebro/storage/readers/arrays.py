"""A mapping of arrays in memory, and NumPy arrays as values of a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cerebro.errors import DataError
from cerebro.storage.readers.arrow import column_values, strings_of
from cerebro.storage.readers.base import Array, Block, Place, Reader, Shape, Values, block_rows

_NAME = "arrays"


@dataclass(frozen=True)
class ArraysReader(Reader):
    """A mapping from column names to arrays `[rows, ...]`."""

    columns: Mapping[str, Any]

    def count(self, columns: Sequence[str]) -> int | None:
        """The common length of the arrays.

        Raises:
            DataError: unequal lengths, or a column without rows.
        """
        return common_length(self.name, {name: _shape(self.columns[name]) for name in columns})

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows, as slices of the arrays."""
        rows = self.count(columns) or 0
        step = block_rows(sum(self.columns[name].nbytes for name in columns) // max(1, rows), block_bytes)
        shapes: dict[str, Shape] = {}
        for start in range(0, rows, step):
            block: dict[str, Values] = {}
            for name in columns:
                piece, place = self.columns[name][start : start + step], Place(self.name, name, start)
                if isinstance(piece, np.ndarray):
                    block[name] = array_values(piece, place)
                    continue
                block[name] = values = column_values(piece, place, shapes.get(name))
                if isinstance(values, np.ndarray):
                    shapes[name] = values.shape[1:]
            yield block


def open_arrays(source: Mapping[str, Any]) -> Reader:
    """The reader of a mapping of arrays, or of anything that NumPy or Arrow makes an array of.

    Raises:
        DataError: a name is not a text, or a value is not an array.
    """
    wrong = [name for name in source if not isinstance(name, str)]
    if wrong:
        raise DataError(f"{_NAME}: {wrong[0]!r} is not a column name: use texts")
    if not source:
        raise DataError(f"{_NAME}: there are no columns: give at least one")
    columns = {name: _as_array(name, value) for name, value in source.items()}
    return ArraysReader(
        _NAME, {name: str(getattr(c, "dtype", c.type if _is_arrow(c) else "")) for name, c in columns.items()}, columns
    )


def array_values(array: Array, place: Place) -> Values:
    """The values of a NumPy array `[rows, *shape]`: booleans as uint8, times as int64, text as codes.

    Raises:
        DataError: a type that a dataset cannot hold, a missing time, or rows without values.
    """
    if 0 in array.shape[1:]:
        raise place.error("has rows without values{where}: leave it out with columns=[...]", 0)
    match array.dtype.kind:
        case "b":
            return array.view(np.uint8)
        case "i" | "u":
            return array.astype(array.dtype.newbyteorder("="), copy=False)
        case "f" if array.dtype.itemsize <= 8:
            return array.astype(array.dtype.newbyteorder("="), copy=False)
        case "M" | "m":
            missing = np.isnat(array)
            if missing.any():
                raise place.null(int(missing.reshape(len(array), -1).any(axis=1).argmax()))
            return array.astype(array.dtype.newbyteorder("="), copy=False).view(np.int64)
        case "U" | "S" | "T" | "O":
            return strings_of(array, place)
        case _:
            raise place.error(f"is of type {array.dtype}: a dataset holds numbers, booleans, times and strings")


def common_length(source: str, shapes: Mapping[str, Shape]) -> int:
    """The number of rows that all columns have.

    Raises:
        DataError: a column without rows, or unequal lengths.
    """
    for name, shape in shapes.items():
        if not shape:
            raise Place(source, name).error("is a single value: leave it out with columns=[...]")
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name!r} {length:,}" for name, length in lengths.items())
        raise DataError(f"{source}: columns are of unequal lengths: {text}; give each column one value per row")
    return next(iter(lengths.values()))


def _as_array(name: str, value: Any) -> Any:
    """A NumPy array, or an Arrow array of what NumPy has no array for, such as lists and None."""
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = None
    if array is not None and (array.dtype.kind != "O" or array.ndim != 1):
        return array
    try:
        return pa.array(value if array is None else array)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise Place(_NAME, name).error(f"is not an array: {str(error).rstrip('. ')}") from error


def _is_arrow(column: Any) -> bool:
    return isinstance(column, pa.Array)


def _shape(column: Any) -> Shape:
    return (len(column),) if _is_arrow(column) else column.shape
