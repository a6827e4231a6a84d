"""The policy where memory cannot hold all shards: models meet at the shards that it holds.

A shared scan, as in database systems (Harizopoulos, Shkapenyuk, Ailamaki, SIGMOD 2005, section 4; Zukowski et al., VLDB
2007, section 3), for models that hop: each shard that was read serves all models before it is dropped. There is no
barrier. What is gained in reading is weighed against balance: before a run variations are played through on a virtual
clock, and the one that reads least is kept among those that take at most `LONGER_MAX` times as long as the default.
"""

from collections.abc import Iterator, Sequence
from itertools import product

from cerebro.execution.forecast import count_units, forecast
from cerebro.execution.place import bits
from cerebro.execution.policies.longest_remaining import (
    PLAYED_UNITS_MAX,
    best_variation,
    nearest_shard,
    nearest_worker,
    variation_weights,
)
from cerebro.execution.policy import Choice, Policy
from cerebro.execution.progress import Progress
from cerebro.plan.workload import Workload

LONGER_MAX = 1.05
"""How much longer a schedule may be for the sake of reading less."""
_TILTS = 3


class SharedScan(Policy):
    """Among the ready models: those whose next shard is held, then those that are least far, then most work left.

    With `leaders` the models that the end has to wait for go first, whatever is held: those with more work left than
    each worker. With `loosely` the work that is left counts before how far a model is. `weights` multiply that work.
    """

    def __init__(self, weights: Sequence[float] = (), *, leaders: bool = True, loosely: bool = False) -> None:
        self._weights, self._leaders, self._loosely = tuple(weights), leaders, loosely

    def begin(self, progress: Progress) -> None:
        self._progress = progress

    def ready(self, model: int) -> None:
        """Nothing to note: `progress.needs` says it."""

    def choose(self) -> Choice | None:
        progress = self._progress
        ready = [model for model, needs in enumerate(progress.needs) if needs & progress.idle]
        if not ready:
            return None
        share = sum(progress.remaining) / progress.workload.workers
        model = min(ready, key=lambda model: self._rank(model, share))
        worker = nearest_worker(progress, model, progress.needs[model] & progress.idle)
        shards = progress.shards(model, worker)
        return Choice(model, worker, nearest_shard(progress, model, self._held(model) & shards or shards))

    def _rank(self, model: int, share: float) -> tuple[object, ...]:
        place, left = self._progress.places[model], self._progress.remaining[model]
        weight = self._weights[model] if model < len(self._weights) else 1.0
        unit = place.unit(0)
        far = 0 if self._loosely else (unit.epoch, unit.kind == "valid", unit.position)
        follows = not (self._leaders and left >= share)
        return place.chain.due, follows, not self._held(model), far, -left * weight, model

    def _held(self, model: int) -> int:
        """Those of the next shards of a model that memory holds."""
        place, holds = self._progress.places[model], self._progress.residency.holds
        return sum(1 << shard for shard in bits(place.next_shards) if holds(place.unit(shard).kind, shard))


def best_scan(workload: Workload, seed: int) -> Policy:
    """What reads least of the variations that are hardly longer than the default policy, which is one of them."""
    best = best_variation(workload, seed)
    if workload.memory is None or not workload.memory.is_short:
        return best
    expected = forecast(workload, best)
    longest, least = expected.makespan_seconds * LONGER_MAX, (expected.read_bytes, expected.makespan_seconds)
    for variation in _variations(workload, seed):
        found = forecast(workload, variation)
        if found.makespan_seconds <= longest and (found.read_bytes, found.makespan_seconds) < least:
            best, least = variation, (found.read_bytes, found.makespan_seconds)
    return best


def _variations(workload: Workload, seed: int) -> Iterator[SharedScan]:
    """As many variations as the size of a workload allows to play through, and one at least."""
    units = count_units(workload) * max(1, len(workload.chains) // 16)  # a decision looks at every model
    count = max(1, PLAYED_UNITS_MAX // max(1, units))
    kinds = product(range(_TILTS), (True, False), (False, True))
    for number, (tilt, leaders, loosely) in enumerate(kinds):
        if number < count:
            weights = variation_weights(workload.chains, seed, tilt)
            yield SharedScan(weights, leaders=leaders, loosely=loosely)
