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


_Costs = dict[str, list[int]]
"""Nanoseconds of the visits of an epoch, by kind and shard."""


class Place:
    """Where a model stands. Durations are whole nanoseconds, so that sums are exact in any order.

    Raises:
        InternalError: `done` is not a place that `chain` leads to.
    """

    def __init__(self, chain: Chain, done: Done) -> None:
        self.chain = chain
        self.epoch = done.epoch
        self._costs = _costs(chain)
        self._all_shards = (1 << len(chain.train_seconds)) - 1
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
        """Go on along another chain of the same model, that leads elsewhere, is due at another time or costs more."""
        self.chain, self._costs = chain, _costs(chain)
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
        return self._cost(unit.epoch)[unit.kind][unit.shard]

    def visit(self, unit: Unit) -> None:
        """Count the next unit as done."""
        if unit.kind == "train":
            self._unvisited ^= 1 << unit.shard
            self._visited.append(unit.shard)
        else:
            self._measured += 1
        if self._unvisited or self._measured < len(self.chain.valid_seconds):
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
        visits = len(self.chain.train_seconds) + len(self.chain.valid_seconds)
        return epochs * visits - len(self._visited) - self._measured

    def work_left(self) -> Iterator[tuple[int, int]]:
        """The nanoseconds of all visits that are to be made to each train shard, then to each valid shard."""
        if self.ended:
            return
        now, last = self._cost(self.epoch), self.chain.epochs
        ahead = [self._cost(epoch) for epoch in range(self.epoch + 1, min(last, len(self._costs) - 1) + 1)]
        usual, times = self._costs[-1], max(0, last - max(self.epoch, len(self._costs) - 1))
        for kind, left in (("train", self._unvisited), ("valid", -1 << self._measured)):
            for shard, cost in enumerate(usual[kind]):
                soon = sum(costs[kind][shard] for costs in ahead)
                yield shard, cost * times + soon + (now[kind][shard] if left >> shard & 1 else 0)

    def _cost(self, epoch: int) -> _Costs:
        """What the visits of an epoch cost."""
        return self._costs[min(epoch, len(self._costs)) - 1]

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


def _costs(chain: Chain) -> list[_Costs]:
    """What visits cost in each of the first epochs, and then in all others."""
    shards = {"train": range(len(chain.train_seconds)), "valid": range(len(chain.valid_seconds))}
    return [
        {kind: [round(chain.seconds(kind, epoch, shard) * 1e9) for shard in shards[kind]] for kind in shards}
        for epoch in range(1, len(chain.passes) + 2)
    ]
