"""Which shards memory holds: one book for all workers of a machine, whose mapped files share the page cache.

What was used longest ago, and is not in use, makes room for what is read. So at any moment the shards that are held
take no more than the limit, as long as it is enough for one shard on each worker.
"""

from collections import Counter, OrderedDict

from cerebro.errors import InternalError
from cerebro.messages import Kind, Reading
from cerebro.plan.workload import ShardMemory

Place = tuple[Kind, int]
"""A split, and the index of a shard in it."""


class Residency:
    """The shards that memory holds, kept by the scheduler; policies ask `holds`."""

    def __init__(self, memory: ShardMemory | None) -> None:
        self._memory = memory
        self._held: OrderedDict[Place, int] = OrderedDict()
        """The bytes of each, that used longest ago first."""
        self._used = Counter[Place]()
        """On how many workers each is in use."""

    @property
    def held_bytes(self) -> int:
        """Bytes of all shards that are held."""
        return sum(self._held.values())

    def holds(self, split: Kind, shard: int) -> bool:
        """Whether a shard is held, or is being read."""
        return (split, shard) in self._held

    def enter(self, split: Kind, shard: int) -> Reading | None:
        """A visit begins; gives how it comes to its shard, or None where nobody keeps account.

        Raises:
            InternalError: the shards in use take more than the limit.
        """
        if self._memory is None:
            return None
        place: Place = (split, shard)
        stays = not self._memory.is_short
        self._used[place] += 1
        if place in self._held:
            self._held.move_to_end(place)
            return Reading(False, (), stays)
        size = self._memory.size(split, shard)
        drops = self._make_room(size, self._memory.limit_bytes)
        self._held[place] = size
        return Reading(True, drops, stays)

    def leave(self, split: Kind, shard: int, *, happened: bool = True) -> None:
        """A visit has ended; where its worker died, nobody knows whether the shard was read to its end."""
        place: Place = (split, shard)
        if self._memory is None:
            return
        self._used[place] -= 1
        if not happened and not self._used[place]:
            self._held.pop(place, None)

    def _make_room(self, size: int, limit: int) -> tuple[Place, ...]:
        drops, held = list[Place](), self.held_bytes
        for place, taken in list(self._held.items()):
            if held + size <= limit:
                break
            if not self._used[place]:
                drops.append(place)
                held -= taken
                del self._held[place]
        if held + size > limit:
            raise InternalError(f"the shards in use take {held + size:,} bytes, and memory may hold {limit:,}")
        return tuple(drops)
