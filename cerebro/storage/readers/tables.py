"""Arrow tables and readers, and the frames and relations that speak the Arrow PyCapsule protocol."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cerebro.storage.readers.arrow import blocks_of, fields_of
from cerebro.storage.readers.base import Block, Reader, readable


@dataclass(frozen=True)
class TableReader(Reader):
    """A stream of record batches; it can be read once."""

    batches: Any
    rows: int | None
    nan_for_null: bool

    def count(self, columns: Sequence[str]) -> int | None:
        """The number of rows, where the source knows it."""
        return self.rows

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows, as slices of the batches."""
        with readable(self.name):
            yield from blocks_of(self.batches, columns, self.name, block_bytes, nan_for_null=self.nan_for_null)


def open_table(source: Any) -> Reader:
    """The reader of a table, frame or stream.

    A missing float of a pandas frame is NaN, since pandas does not tell them apart; its index is left out.

    Raises:
        DataError: it does not give record batches.
    """
    name = type(source).__name__
    is_pandas = type(source).__module__.partition(".")[0] == "pandas"
    with readable(name):
        table = pa.Table.from_pandas(source, preserve_index=False) if is_pandas else source
        batches = pa.RecordBatchReader.from_stream(table)
    rows = getattr(table, "num_rows", getattr(table, "height", None))
    return TableReader(
        name, fields_of(batches.schema, name), batches, rows if isinstance(rows, int) else None, is_pandas
    )
