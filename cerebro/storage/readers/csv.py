"""CSV files with a header line; types are those of the first 8 MiB.

An empty cell is a null, and so are `NA`, `N/A` and `null` in a column of numbers; `nan` and `inf` are floats.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import DataError
from cerebro.storage.readers.arrow import blocks_of, fields_of
from cerebro.storage.readers.base import BLOCK_BYTES, Block, Reader, readable

_NULLS = ("", "NA", "N/A", "#N/A", "null", "NULL")


@dataclass(frozen=True)
class CsvReader(Reader):
    """One CSV file."""

    path: Path
    types: Mapping[str, Any]

    def count(self, columns: Sequence[str]) -> int | None:
        """None: only reading tells."""
        return None

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows, a few MiB of text at a time."""
        types = {column: self.types[column] for column in columns}
        with readable(self.name), _stream(self.path, block_bytes, types) as batches:
            yield from blocks_of(batches, columns, self.name, block_bytes)


def open_csv(path: Path) -> Reader:
    """The reader of a CSV file, of which the first 8 MiB are read.

    Raises:
        DataError: empty, or not a table.
    """
    if not path.stat().st_size:
        raise DataError(f"{path.name}: is empty: a CSV file starts with a line of column names")
    with readable(path.name), _stream(path, BLOCK_BYTES, None) as batches:
        schema = batches.schema
    return CsvReader(path.name, fields_of(schema, path.name), path, {field.name: field.type for field in schema})


def _stream(path: Path, block_bytes: int, types: Mapping[str, Any] | None) -> Any:
    """The file as record batches; with `types`, these columns as these types."""
    import pyarrow.csv as pacsv

    convert = pacsv.ConvertOptions(null_values=list(_NULLS), strings_can_be_null=False)
    if types is not None:
        convert.column_types, convert.include_columns = types, list(types)
    return pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(block_size=block_bytes),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )
