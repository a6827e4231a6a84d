"""Shard files: one Arrow record batch each, written once, then mapped and read in place."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cerebro.errors import DataError
from cerebro.storage.manifest import Column, Shard

if TYPE_CHECKING:
    from cerebro.storage.readers.base import Array


class OpenShard:
    """A shard in memory: `columns` are read-only views `[rows, *shape]` on its file, mapped and not copied.

    Views that are still in use stay valid after `close`.
    """

    def __init__(self, file: str, columns: Mapping[str, "Array"], rows: int, size: int) -> None:
        self.file, self.rows, self.bytes = file, rows, size
        self._columns: Mapping[str, Array] | None = columns

    @property
    def columns(self) -> Mapping[str, "Array"]:
        """Column name -> `[rows, *shape]`.

        Raises:
            DataError: the shard was closed.
        """
        if self._columns is None:
            raise DataError(f"shard {self.file} is closed: open it again with dataset.shard(split, index)")
        return self._columns

    def close(self) -> None:
        """Let go of the file; the memory is returned when the last view is gone."""
        self._columns = None

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OpenShard({self.file!r}, {self.rows:,} rows{', closed' if self._columns is None else ''})"


def write_shard(path: Path, values: Mapping[str, "Array"], columns: Mapping[str, Column]) -> Shard:
    """Write one shard file, and wait until it is on the disk."""
    import pyarrow as pa

    fields = [_arrow_field(name, column) for name, column in columns.items()]
    rows = len(next(iter(values.values())))
    arrays = [_arrow_array(values[field.name], field.type) for field in fields]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        sink = _HashingFile(file)
        with pa.PythonFile(sink, "w") as target, pa.ipc.new_file(target, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(descriptor)
    return Shard(path.name, rows, sink.bytes, sink.hash.hexdigest())


def open_shard(path: Path, shard: Shard, columns: Mapping[str, Column]) -> OpenShard:
    """Map a shard file.

    Raises:
        DataError: it is missing, or is not what the manifest says.
    """
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = file.get_batch(0)
        same = file.num_record_batches == 1 and batch.num_rows == shard.rows
        views = {name: _view(batch.column(name), column) for name, column in columns.items()} if same else {}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: restore it, or ingest the source again") from None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}): restore it, or ingest the source again") from error
    if not same:
        raise DataError(f"{path} does not hold the {shard.rows:,} rows of its manifest: ingest the source again")
    return OpenShard(shard.file, views, shard.rows, shard.bytes)


def check_shard(path: Path, shard: Shard) -> None:
    """Read a shard file again and compare its hash.

    Raises:
        DataError: it is missing, or has changed since it was written.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; restore it, or ingest the source again") from error
    if found != shard.sha256:
        raise DataError(
            f"{path} has changed since it was written: sha256 {shard.sha256} expected, {found} found; "
            "restore it, or ingest the source again"
        )


def drop_shard(path: Path) -> None:
    """Let the system forget what it holds of a shard file, which no process has mapped: it is read from the disk again.

    Where the system knows no such request, it drops what it needs to by itself.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


class _HashingFile:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.hash = file, 0, hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.hash.update(view)
        self.file.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.closed = True


def _arrow_field(name: str, column: Column) -> Any:
    import pyarrow as pa

    values = getattr(pa, column.dtype)()
    if not column.shape:
        return pa.field(name, values, nullable=False)
    kind = pa.list_(pa.field("item", values, nullable=False), _size(column))
    return pa.field(name, kind, nullable=False, metadata={"shape": json.dumps(list(column.shape))})


def _arrow_array(values: "Array", kind: Any) -> Any:
    import pyarrow as pa

    leaf = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    flat = pa.Array.from_buffers(leaf, values.size, [None, pa.py_buffer(values)])
    return flat if leaf is kind else pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _view(array: Any, column: Column) -> "Array":
    """A column as it is mapped; straight from the buffer, as Arrow's own way to NumPy loads pandas (0.2 s a worker)."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type) != bool(column.shape):
        raise ValueError(f"{array.type} instead of values of the shape {column.shape}")
    flat = array.values if column.shape else array
    if flat.type != getattr(pa, column.dtype)() or flat.null_count:
        raise ValueError(f"{flat.type} instead of {column.dtype}")
    values = np.frombuffer(flat.buffers()[-1], column.dtype, len(flat), flat.offset * np.dtype(column.dtype).itemsize)
    return values.reshape(len(array), *column.shape)


def _size(column: Column) -> int:
    size = 1
    for length in column.shape:
        size *= length
    return size
