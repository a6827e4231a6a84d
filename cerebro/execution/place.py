"""The place of one model in its chain: what it has visited, and what it may visit next."""

from collections.abc import Iterator

from cerebro.errors import InternalError
from cerebro.messages import Unit
from cerebro.plan.workload import Chain, Done


def bits(mask: int) -> Iterator[int]:
    """The members of a set that is written as the bits of an int, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class Place:
    """Where a model stands. Durations are whole nanoseconds, so that sums are exact in any order.

    Raises:
        InternalError: `done` is not a place that `chain` leads to.
    """

    def __init__(self, chain: Chain, done: Done) -> None:
        self.chain = chain
        self.epoch = done.epoch
        self.train_ns = [round(seconds * 1e9) for seconds in chain.train_seconds]
        self.valid_ns = [round(seconds * 1e9) for seconds in chain.valid_seconds]
        self._all_shards = (1 << len(self.train_ns)) - 1
        self._begin_epoch()
        for shard in done.train_shards:
            if self.ended or self.measuring or not self.next_shards >> shard & 1:
                raise InternalError(f"{chain.model} cannot go on from {done}: its chain does not lead there")
            self.visit(self.unit(shard))
        for _ in range(done.valid_visits):
            if self.epoch != done.epoch or not self.measuring:
                raise InternalError(f"{chain.model} cannot go on from {done}: its chain does not lead there")
            self.visit(self.unit(self._measured))

    def follow(self, chain: Chain) -> None:
        """Go on along another chain of the same model: it differs in how far it leads, or when it is due."""
        self.chain = chain
        self._look_ahead()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to visit."""
        return self.epoch > self.chain.epochs

    @property
    def measuring(self) -> bool:
        """Whether all train shards of the epoch were visited."""
        return not self._unvisited

    @property
    def last_shard(self) -> int | None:
        """The train shard that was visited last in this epoch."""
        return self._visited[-1] if self._visited else None

    def unit(self, shard: int) -> Unit:
        """The next unit, if it is on `shard`."""
        if self._unvisited:
            return Unit(self.chain.model, "train", self.epoch, len(self._visited), shard)
        return Unit(self.chain.model, "valid", self.epoch, self._measured, shard)

    def nanoseconds(self, unit: Unit) -> int:
        """The nominal duration of a unit."""
        return (self.train_ns if unit.kind == "train" else self.valid_ns)[unit.shard]

    def visit(self, unit: Unit) -> None:
        """Count the next unit as done."""
        if unit.kind == "train":
            self._unvisited ^= 1 << unit.shard
            self._visited.append(unit.shard)
        else:
            self._measured += 1
        if self._unvisited or self._measured < len(self.valid_ns):
            self._look_ahead()
        else:
            self.epoch += 1
            self._begin_epoch()

    def done(self) -> Done:
        """The place as a value that a later run can start from."""
        return Done(self.epoch, tuple(self._visited), self._measured)

    def count_left(self) -> int:
        """How many units are to be made."""
        if self.ended:
            return 0
        epochs = self.chain.epochs - self.epoch + 1
        return epochs * (len(self.train_ns) + len(self.valid_ns)) - len(self._visited) - self._measured

    def work_left(self) -> Iterator[tuple[int, int]]:
        """The nanoseconds of all visits that are to be made to each train shard, then to each valid shard."""
        later = max(0, self.chain.epochs - self.epoch)
        now = not self.ended
        for shard, cost in enumerate(self.train_ns):
            yield shard, cost * (later + (now and self._unvisited >> shard & 1))
        for shard, cost in enumerate(self.valid_ns):
            yield shard, cost * (later + (now and shard >= self._measured))

    def _begin_epoch(self) -> None:
        self._unvisited, self._visited, self._measured = self._all_shards, list[int](), 0
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Note the shards that the next unit may visit, as bits."""
        if self.ended:
            self.next_shards = 0
        elif not self._unvisited:
            self.next_shards = 1 << self._measured
        elif self.chain.orders is None:
            self.next_shards = self._unvisited
        else:
            self.next_shards = 1 << self.chain.orders[self.epoch - 1][len(self._visited)]
