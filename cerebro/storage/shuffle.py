"""Records from source order to their places: scattered by shard on disk, then placed within a shard in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cerebro.storage.readers.base import Array
from cerebro.storage.split import Arrangement
from cerebro.storage.staging import Field, Staged, records

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Scattered:
    """Records grouped by shard, in source order within each; shard `i` begins at record `starts[i]`."""

    path: Path
    fields: tuple[Field, ...]
    slots: Array
    starts: Array

    def rows(self, shard: int) -> int:
        """Rows of a shard, counted through all splits."""
        return int(self.starts[shard + 1] - self.starts[shard])

    def columns(self, shard: int) -> dict[str, Array]:
        """The columns of a shard with every row in its place: name -> `[rows, *shape]`. One shard is in memory."""
        first, end = int(self.starts[shard]), int(self.starts[shard + 1])
        places = self.slots[(self.slots >= first) & (self.slots < end)] - first
        raw = {each.name: np.empty((end - first, each.bytes), np.uint8) for each in self.fields}
        for start, block in records(self.path, self.fields[-1].end, first, end - first, _BLOCK_BYTES):
            where = places[start : start + len(block)]
            for each in self.fields:
                raw[each.name][where] = block[:, each.offset : each.end]
        return {each.name: raw[each.name].view(each.dtype).reshape(-1, *each.shape) for each in self.fields}


def scatter(staged: Staged, arrangement: Arrangement, path: Path, done: Callable[[int], None]) -> Scattered:
    """Write the staged records to `path`, grouped by shard; `done` is told the rows so far."""
    sizes = [size for split in arrangement.sizes.values() for size in split]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ends, slots = starts[:-1].copy(), arrangement.slots
    buffer = np.empty((min(staged.rows, max(1, _BLOCK_BYTES // staged.width)), staged.width), np.uint8)
    with path.open("xb", buffering=0) as file:
        for start, block in records(staged.path, staged.width, 0, staged.rows, _BLOCK_BYTES):
            shards = np.searchsorted(starts, slots[start : start + len(block)], side="right") - 1
            grouped = buffer[: len(block)]
            np.take(
                block, np.argsort(shards, kind="stable"), axis=0, out=grouped, mode="clip"
            )  # other modes copy twice
            counts = np.bincount(shards, minlength=len(sizes))
            _append(file, grouped, counts, ends)
            done(start + len(block))
    return Scattered(path, staged.fields, slots, starts)


def _append(file: IO[bytes], grouped: Array, counts: Array, ends: Array) -> None:
    """Write the records of each shard where its last ones ended, and move the `ends`."""
    cut = np.concatenate([[0], np.cumsum(counts)])
    for shard in np.flatnonzero(counts):
        file.seek(int(ends[shard]) * grouped.shape[1])
        _write(file, grouped[cut[shard] : cut[shard + 1]].data.cast("B"))
    ends += counts


def _write(file: IO[bytes], view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]
