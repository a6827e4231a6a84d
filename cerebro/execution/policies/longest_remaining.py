"""The default policy: the model with the most work left goes first.

Before a run up to 50 variations of it are played through on a virtual clock, and the shortest is kept. Which one it
is depends on the workload and the seed alone, so that a plan can be made again.
"""

import math
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from cerebro.execution.forecast import count_units, forecast, lower_bound
from cerebro.execution.place import bits
from cerebro.execution.policy import Choice, Policy
from cerebro.execution.progress import Progress
from cerebro.plan.workload import Chain, Workload
from cerebro.streams import stream_bytes

VARIATIONS_MAX = 50
PLAYED_UNITS_MAX = 40_000
"""So many units are played through at most, which takes about a second: a count, as plans must not depend on time."""
CLOSE_ENOUGH = 1.005
"""No better variation is looked for within this factor of the lower bound."""
_SPREADS = (0.05, 0.15, 0.4)

_Entry = tuple[float, float, int]
"""When a model is due, how much work it has left (negated: most comes first), and its index."""


class LongestRemaining(Policy):
    """Among the ready models and the idle workers that they need: the model with the most work left, then the worker
    with the most work left, then the cyclically nearest one.

    `weights`, one for each model, multiply the work of the models; without them it counts as it is.
    """

    def __init__(self, weights: Sequence[float] = ()) -> None:
        self._weights = tuple(weights)

    def begin(self, progress: Progress) -> None:
        self._progress = progress
        self._queue: list[_Entry] = []
        """The ready models: what is due first, then what has most work left."""
        self._queued = dict[int, _Entry]()
        """The entry of each model that is in the queue."""
        for model, needs in enumerate(progress.needs):
            if needs:
                self.ready(model)

    def ready(self, model: int) -> None:
        if (stale := self._queued.get(model)) is not None:  # it was held, or has gone along in the pass of another
            del self._queue[bisect_left(self._queue, stale)]
        weight = self._weights[model] if model < len(self._weights) else 1.0
        due = self._progress.places[model].chain.due
        entry = self._queued[model] = (due, -self._progress.remaining[model] * weight, model)
        insort(self._queue, entry)

    def choose(self) -> Choice | None:
        needs, idle = self._progress.needs, self._progress.idle
        for place, (_, _, model) in enumerate(self._queue):
            if workers := needs[model] & idle:
                del self._queue[place]
                del self._queued[model]
                worker = nearest_worker(self._progress, model, workers)
                return Choice(model, worker, nearest_shard(self._progress, model, self._progress.shards(model, worker)))
        return None


def nearest_worker(progress: Progress, model: int, workers: int) -> int:
    """The most loaded of some workers, then the cyclically nearest."""
    if workers & (workers - 1) == 0:  # there is only one
        return workers.bit_length() - 1
    load, count, last = progress.worker_load, progress.workload.workers, progress.last_worker[model]
    # Where models begin is spread out as in a latin square: models of equal work then never get in each other's
    # way. From there on, a model stays where it is if it may, and goes on to the next worker if it has to move.
    nearest = model if last is None else last + 1 if progress.workload.pinned else last
    return min(bits(workers), key=lambda worker: (-load[worker], (worker - nearest) % count))


def nearest_shard(progress: Progress, model: int, shards: int) -> int:
    """The cyclically nearest of some shards."""
    last = progress.places[model].last_shard
    nearest = model % shards.bit_length() if last is None else last + 1
    ahead = shards >> nearest << nearest or shards
    return (ahead & -ahead).bit_length() - 1


def best_variation(workload: Workload, seed: int) -> LongestRemaining:
    """The best variation of the policy for `workload`, of as many as its size allows to play through."""
    plain = LongestRemaining()
    variations = min(VARIATIONS_MAX, PLAYED_UNITS_MAX // max(1, count_units(workload)))
    if variations < 2:
        return plain
    close_enough = lower_bound(workload) * CLOSE_ENOUGH
    best, shortest = plain, math.inf
    for number in range(variations):
        variation = LongestRemaining(variation_weights(workload.chains, seed, number)) if number else plain
        makespan = forecast(workload, variation).makespan_seconds
        if makespan < shortest:
            best, shortest = variation, makespan
        if shortest <= close_enough:
            break
    return best


def variation_weights(chains: Sequence[Chain], seed: int, number: int) -> tuple[float, ...]:
    """The weights of a variation.

    In turn they are 1 (most work first), divide by the cost of a visit (most visits first: it keeps models that go
    round in a fixed order from running into each other), and something between. The first of each kind is that
    exactly, the others are disturbed, more or less.
    """
    stream = random.Random(stream_bytes((seed, "variation", number), 64))
    spread = _SPREADS[number // 3 % len(_SPREADS)] if number >= 3 else 0.0
    return tuple(
        _TILTS[number % 3](_visit_seconds(chain)) * (1 + spread * (2 * stream.random() - 1)) for chain in chains
    )


# Square root and division give the same bits everywhere, other powers need not.
_TILTS: tuple[Callable[[float], float], ...] = (
    lambda seconds: 1.0,
    lambda seconds: 1 / seconds,
    lambda seconds: 1 / math.sqrt(seconds),
)


def _visit_seconds(chain: Chain) -> float:
    """The mean nominal duration of a unit; 1 where nothing takes any time."""
    seconds = (*chain.train_seconds, *chain.valid_seconds)
    return sum(seconds) / len(seconds) or 1.0 if seconds else 1.0
