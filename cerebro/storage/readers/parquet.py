"""Parquet files, read page by page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cerebro.storage.readers.arrow import blocks_of, fields_of
from cerebro.storage.readers.base import Block, Reader, block_rows, readable

_PAGES_BYTES = 1 << 20


@dataclass(frozen=True)
class ParquetReader(Reader):
    """One Parquet file."""

    path: Path
    rows: int
    row_bytes: int

    def count(self, columns: Sequence[str]) -> int | None:
        """The number of rows."""
        return self.rows

    def blocks(self, columns: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """The rows; a column chunk is read through a buffer, so row groups may be of any size."""
        import pyarrow.parquet as pq

        rows = block_rows(self.row_bytes, block_bytes)
        with readable(self.name), pq.ParquetFile(self.path, buffer_size=_PAGES_BYTES, pre_buffer=False) as file:
            batches = file.iter_batches(rows, columns=list(columns))
            yield from blocks_of(batches, columns, self.name, block_bytes)


def open_parquet(path: Path) -> Reader:
    """The reader of a Parquet file, whose footer is read.

    Raises:
        DataError: not a Parquet file.
    """
    import pyarrow.parquet as pq

    with readable(path.name), pq.ParquetFile(path) as file:
        footer, schema = file.metadata, file.schema_arrow
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
    return ParquetReader(
        path.name, fields_of(schema, path.name), path, footer.num_rows, size // max(1, footer.num_rows)
    )
