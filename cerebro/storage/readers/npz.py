"""NumPy `.npz` archives, compressed or not, read row by row: an archive may be larger than memory. Never unpickled."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cerebro.errors import DataError
from cerebro.quantities import bytes_text
from cerebro.storage.readers.arrays import array_values, common_length
from cerebro.storage.readers.base import Array, Block, Place, Reader, Shape, block_rows, readable

_SUFFIX = ".npy"
_FORTRAN_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Head:
    """What the head of a member says: `shape` includes the rows."""

    shape: Shape
    dtype: Any
    fortran: bool

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class NpzReader(Reader):
    """One `.npz` archive; its columns are its arrays."""

    path: Path
    heads: Mapping[str, _Head]

    def count(self, columns: Sequence[str]) -> int | None:
        """The common length of the arrays.

        Raises:
            DataError: unequal lengths, or arrays that cannot be columns.
        """
        for column in columns:
            self._check(column)
        return common_length(self.name, {column: self.heads[column].shape for column in columns})

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows; all arrays are read side by side."""
        rows = self.count(columns) or 0
        step = block_rows(sum(self.heads[column].row_bytes for column in columns), block_bytes)
        with readable(self.name), ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            members = {column: self._member(archive, column, stack) for column in columns}
            for start in range(0, rows, step):
                count = min(step, rows - start)
                yield {column: members[column].values(start, count) for column in columns}

    def _check(self, column: str) -> None:
        head, place = self.heads[column], Place(self.name, column)
        if head.dtype.hasobject:
            raise place.error("holds Python objects, which are never unpickled: save it as numbers or text")
        size = head.row_bytes * head.shape[0] if head.shape else 0
        if head.fortran and len(head.shape) > 1 and size > _FORTRAN_BYTES:
            raise place.error(
                f"is in Fortran order and {bytes_text(size)}, of which no row can be read alone "
                f"({bytes_text(_FORTRAN_BYTES)} allowed): save np.ascontiguousarray of it"
            )

    def _member(self, archive: zipfile.ZipFile, column: str, stack: ExitStack) -> "_Member":
        stream = stack.enter_context(archive.open(column + _SUFFIX))
        head = _read_head(stream)
        whole = None
        if head.fortran and len(head.shape) > 1:
            data = _read_exactly(stream, head.row_bytes * head.shape[0])
            whole = np.frombuffer(data, head.dtype).reshape(head.shape, order="F")
        return _Member(Place(self.name, column), head, stream, whole)


@dataclass(frozen=True, slots=True)
class _Member:
    """An array being read from an archive."""

    place: Place
    head: _Head
    stream: IO[bytes]
    whole: Array | None

    def values(self, start: int, count: int) -> Any:
        place = Place(self.place.source, self.place.column, start)
        if self.whole is not None:
            return array_values(self.whole[start : start + count], place)
        data = _read_exactly(self.stream, count * self.head.row_bytes)
        return array_values(np.frombuffer(data, self.head.dtype).reshape(count, *self.head.shape[1:]), place)


def open_npz(path: Path) -> Reader:
    """The reader of an `.npz` archive, of which the heads of the arrays are read.

    Raises:
        DataError: not such an archive.
    """
    with readable(path.name), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
        heads = {}
        for name in names:
            with archive.open(name) as stream:
                heads[name.removesuffix(_SUFFIX)] = _read_head(stream)
    if not heads:
        raise DataError(f"{path.name}: holds no array")
    return NpzReader(path.name, {name: f"{h.dtype}{list(h.shape[1:])}" for name, h in heads.items()}, path, heads)


def _read_head(stream: IO[bytes]) -> _Head:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy format {version} is that of structured arrays, which cannot be columns")
    shape, fortran, dtype = readers[version](stream)
    return _Head(shape, dtype, fortran)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"an array ends {size - len(data):,} bytes early")
    return data
