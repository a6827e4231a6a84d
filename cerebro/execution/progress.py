"""How far all models have come, and which units may come next: what policies choose from.

Models are called by their index in the workload, and sets of workers or shards are bits of an int, so that "which
of 64 idle workers has a shard that this model still needs" is one `&`.
"""

from collections import defaultdict
from collections.abc import Iterator

from cerebro.execution.place import Place
from cerebro.execution.residency import Residency
from cerebro.messages import Launch, Reading, Unit
from cerebro.plan.workload import Assign, Chain, Done, Workload


class Progress:
    """The visits made and those to come, kept up to date by the scheduler; policies read it.

    Raises:
        InternalError: the workload's `done` does not fit its chains.
    """

    def __init__(self, workload: Workload) -> None:
        workers = workload.workers
        self.workload = workload
        self.index = {chain.model: index for index, chain in enumerate(workload.chains)}
        self.places = [Place(chain, workload.done.get(chain.model, Done())) for chain in workload.chains]
        self.residency = Residency(workload.memory)
        """The shards that memory holds."""
        self.held = set[int]()
        """The models of which nothing is to be launched for now."""
        self.idle = 0
        """The workers that wait for a unit."""
        self.remaining = [sum(cost for _, cost in place.work_left()) for place in self.places]
        """For each model the nanoseconds of its units that have not started."""
        self.last_worker: list[int | None] = [None] * len(self.places)
        """For each model the worker of its last unit."""
        self.worker_load = [0] * workers
        """For each worker the nanoseconds of units that can run there alone and have not started; 0 unless pinned."""
        self._all_workers = (1 << workers) - 1
        self._pinned_shards = [self._shards_of(workload.chains, worker) for worker in range(workers)]
        for model in range(len(self.places)):
            self._add_loads(model, +1)
        self.needs = [self._workers_for(model) for model in range(len(self.places))]
        """For each model the workers that may run its next unit: none while one runs, and when all have ended."""
        self._groups = defaultdict[str, list[int]](list)
        """The models that have ever been in each group."""
        for model in range(len(self.places)):
            self._note_group(model)

    def assign(self, change: Assign, *, running: Unit | None) -> int:
        """Take in a new model, or another chain of one that is known and of which a unit may be `running`.

        Gives its index.
        """
        chain = change.chain
        if chain.model not in self.index:
            return self._join(change)
        model = self.index[chain.model]
        place = self.places[model]
        if running:  # as if it had not started: it may cost something else on the new chain
            self._count(model, running, +1)
        self._add_loads(model, -1)
        before = sum(cost for _, cost in place.work_left())
        place.follow(chain)
        self._note_group(model)
        self._add_loads(model, +1)
        self.remaining[model] += sum(cost for _, cost in place.work_left()) - before
        if running:
            self._count(model, running, -1)
        self.held.discard(model)
        self.needs[model] = 0 if running else self._workers_for(model)
        return model

    def hold(self, model: int) -> None:
        """Let nothing more of a model be launched."""
        self.held.add(model)
        self.needs[model] = 0

    def shards(self, model: int, worker: int) -> int:
        """The shards that the next unit of `model` may visit on `worker`."""
        shards = self.places[model].next_shards
        return shards & self._pinned_shards[worker] if self.workload.pinned else shards

    def fellows(self, model: int, worker: int, unit: Unit) -> Iterator[tuple[int, Unit]]:
        """The models of the same group that may make the same visit on `worker` now, with their units."""
        group = self.places[model].chain.group_in(unit.epoch)
        for other in self._groups[group] if group else ():
            place = self.places[other]
            if other == model or not self.needs[other] >> worker & 1 or place.chain.group_in(unit.epoch) != group:
                continue
            if self.shards(other, worker) >> unit.shard & 1:
                same = place.unit(unit.shard)
                if (same.kind, same.epoch, same.position) == (unit.kind, unit.epoch, unit.position):
                    yield other, same

    def launch(self, model: int, worker: int, unit: Unit, fellows: tuple[Unit, ...], reading: Reading | None) -> Launch:
        """The launch of a unit, and how it is made together with its fellows."""
        chain = self.places[model].chain
        shared = chain.pass_in(unit.epoch) if fellows else None
        if shared is None:
            return Launch(unit, worker, kernel=chain.kernel, reading=reading)
        return Launch(unit, worker, fellows, chain.kernel, reading, shared.share, shared.fuse)

    def start(self, model: int, worker: int, unit: Unit) -> None:
        """A unit has started."""
        self.idle &= ~(1 << worker)
        self.needs[model] = 0
        self._count(model, unit, -1)

    def finish(self, model: int, worker: int, unit: Unit) -> None:
        """A unit has ended well."""
        place = self.places[model]
        place.visit(unit)
        self.last_worker[model] = worker
        self.needs[model] = self._workers_for(model)

    def put_back(self, model: int, unit: Unit) -> None:
        """A unit that had started has not happened."""
        self._count(model, unit, +1)
        self.needs[model] = self._workers_for(model)

    def give_up(self, model: int, unit: Unit) -> None:
        """A unit that had started has failed, and nothing of its model is to be run any more."""
        self._count(model, unit, +1)
        self._add_loads(model, -1)
        self.remaining[model] = 0

    def _count(self, model: int, unit: Unit, sign: int) -> None:
        cost = sign * self.places[model].nanoseconds(unit)
        self.remaining[model] += cost
        if self.workload.pinned:
            self.worker_load[unit.shard % self.workload.workers] += cost

    def _add_loads(self, model: int, sign: int) -> None:
        if self.workload.pinned:
            for shard, cost in self.places[model].work_left():
                self.worker_load[shard % self.workload.workers] += sign * cost

    def _join(self, change: Assign) -> int:
        model, place = len(self.places), Place(change.chain, change.done)
        self.index[change.chain.model] = model
        self.places.append(place)
        self.remaining.append(sum(cost for _, cost in place.work_left()))
        self.last_worker.append(None)
        self._add_loads(model, +1)
        self.needs.append(self._workers_for(model))
        self._note_group(model)
        return model

    def _note_group(self, model: int) -> None:
        chain = self.places[model].chain
        for group in {chain.group, *(each.group for each in chain.passes)}:
            if group and model not in self._groups[group]:
                self._groups[group].append(model)

    def _workers_for(self, model: int) -> int:
        place = self.places[model]
        if model in self.held:
            return 0
        if not self.workload.pinned:
            return self._all_workers if place.next_shards else 0
        workers, shards = 0, place.next_shards
        while shards:  # shard s is on worker s % workers: fold the shards onto the workers
            workers |= shards & self._all_workers
            shards >>= self.workload.workers
        return workers

    def _shards_of(self, chains: tuple[Chain, ...], worker: int) -> int:
        """All shards that are on `worker` when they are pinned."""
        count = max((max(len(c.train_seconds), len(c.valid_seconds)) for c in chains), default=0)
        return sum(1 << shard for shard in range(worker, count, self.workload.workers))
