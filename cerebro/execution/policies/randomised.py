"""The policy of the Cerebro paper (PVLDB 13(11) 2020, section 4.4): for an idle worker, any unit that may run on it."""

import random

from cerebro.execution.place import bits
from cerebro.execution.policy import Choice, Policy
from cerebro.execution.progress import Progress
from cerebro.streams import stream_bytes


class Randomised(Policy):
    """For each idle worker in turn a unit drawn evenly from those that may run on it."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def begin(self, progress: Progress) -> None:
        self._progress = progress
        self._random = random.Random(stream_bytes((self._seed, "policy"), 64))

    def ready(self, model: int) -> None:
        """Nothing to note: `progress.needs` says it."""

    def choose(self) -> Choice | None:
        for worker in bits(self._progress.idle):
            mask = 1 << worker
            models = [model for model, needs in enumerate(self._progress.needs) if needs & mask]
            if models:
                return self._draw(models, worker)
        return None

    def _draw(self, models: list[int], worker: int) -> Choice:
        """One of all units that the models could run on `worker`: a model counts once for each of its shards."""
        shards = [self._progress.shards(model, worker) for model in models]
        drawn = int(self._random.random() * sum(mask.bit_count() for mask in shards))
        for model, mask in zip(models, shards, strict=True):
            if drawn < mask.bit_count():
                return Choice(model, worker, list(bits(mask))[drawn])
            drawn -= mask.bit_count()
        raise AssertionError("drew past the last unit")
