"""The shards that a worker has open."""

from collections import OrderedDict

from cerebro.errors import DataError
from cerebro.messages import Reading
from cerebro.plan.program import SHARDS_BYTES
from cerebro.storage.dataset import Dataset, OpenShard


class ShardError(DataError):
    """A shard is missing or damaged: the run ends, and no model is to blame."""


class OpenShards:
    """The open shards of a worker: as many as fit into a fixed number of mapped bytes; none where memory is short.

    A worker compares the hash of a shard whenever it reads it from the disk, when it opens it for the first time, and
    when its file was written to since.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._open: OrderedDict[tuple[str, int], OpenShard] = OrderedDict()
        self._verified: dict[tuple[str, int], tuple[int, ...]] = {}

    def take_up(self, split: str, index: int, reading: Reading | None) -> int:
        """Drop what is to leave memory, and read the shard if it is not there; gives the bytes that were read.

        Raises:
            ShardError: the shard is missing or damaged.
        """
        if reading is None:
            return 0
        for other, number in reading.drops:
            self._close(other, number)
            self.dataset.drop(other, number)
        if not reading.anew:
            return 0
        self._verified.pop((split, index), None)  # so that it is read to its end
        return self.open(split, index).bytes

    def put_down(self, reading: Reading | None) -> None:
        """Close everything where memory is short: the system keeps what is mapped anywhere."""
        if reading is not None and not reading.stays:
            for split, index in list(self._open):
                self._close(split, index)

    def open(self, split: str, index: int) -> OpenShard:
        """A shard, mapped.

        Raises:
            ShardError: it is missing or damaged.
        """
        key = (split, index)
        shard = self._open.pop(key, None)
        try:
            stamp = self.dataset.stamp(split, index)
            if shard is None or self._verified.get(key) != stamp:
                shard = self.dataset.shard(split, index, verify=self._verified.get(key) != stamp)
        except DataError as error:
            raise ShardError(str(error)) from error
        self._verified[key], self._open[key] = stamp, shard
        while len(self._open) > 1 and sum(opened.bytes for opened in self._open.values()) > SHARDS_BYTES:
            self._open.popitem(last=False)[1].close()
        return shard

    def _close(self, split: str, index: int) -> None:
        shard = self._open.pop((split, index), None)
        if shard is not None:
            shard.close()
