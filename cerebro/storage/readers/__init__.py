"""What a dataset can be made of: the registry of source kinds, and the reader of a source."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cerebro.errors import DataError
from cerebro.storage.readers import arrays, csv, files, npz, parquet, tables
from cerebro.storage.readers.base import Reader

FILES: dict[str, Callable[[Path], Reader]] = {
    ".parquet": parquet.open_parquet,
    ".pq": parquet.open_parquet,
    ".csv": csv.open_csv,
    ".npz": npz.open_npz,
}
"""Kinds of files, by suffix. A new kind is a file in this folder and a line here."""

OBJECTS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Reader]], ...] = (
    (lambda source: isinstance(source, Mapping), arrays.open_arrays),
    (lambda source: hasattr(source, "__arrow_c_stream__"), tables.open_table),
)
"""Kinds of objects in memory: whether a reader takes it, and the reader."""


def open_source(source: Any) -> Reader:
    """The reader of a file, a folder of files, a table, a frame or a mapping of arrays; nothing but its head is read.

    Raises:
        DataError: there is nothing there, or nothing that a reader takes.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(os.fspath(source)))
    for accepts, make in OBJECTS:
        if accepts(source):
            return make(source)
    raise DataError(
        f"source: {type(source).__name__} is not a source: give a path, an Arrow table or reader, "
        "a pandas or polars frame, or a dict of arrays"
    )


def _open_path(path: Path) -> Reader:
    if path.is_dir():
        return files.open_folder(path, FILES)
    if not path.exists():
        raise DataError(f"source: {path} does not exist")
    if path.suffix.lower() not in FILES:
        raise DataError(f"source: {path.name} is of an unknown type: use a file or folder of {', '.join(FILES)}")
    return FILES[path.suffix.lower()](path)
