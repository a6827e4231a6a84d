"""The scheduler: events in, commands out; no clock, no thread, no input or output."""

from collections.abc import Mapping
from types import MappingProxyType

from cerebro.errors import InternalError
from cerebro.execution.invariants import Ledger
from cerebro.execution.place import bits
from cerebro.execution.policy import Policy
from cerebro.execution.progress import Progress
from cerebro.messages import Abandon, Drain, Event, Launch, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.workload import Assign, Done, Hold, Workload

DEATHS_MAX = 3
"""So many workers may die on one unit before its model is given up."""


class Scheduler:
    """Brings every chain of a workload to its end, on whatever workers are there.

    It is a fold over events and changes of the workload: the same ones give the same commands. A worker that dies
    loses nothing but time; a model whose code fails, or that kills worker after worker, ends alone.

    Raises:
        InternalError: the workload's `done` does not fit its chains.
    """

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self.workload = workload
        self._progress, self._policy, self._ledger = Progress(workload), policy, Ledger(workload)
        self._deaths: dict[Unit, int] = {}
        self._workers = 0
        """The workers that are there, idle or not, as bits."""
        self._given_up = set[int]()
        self._unended = {model for model, place in enumerate(self._progress.places) if not place.ended}
        """The models with units that are to be launched, or run."""
        self._draining = False
        policy.begin(self._progress)

    @property
    def finished(self) -> bool:
        """Whether nothing runs, and nothing can be launched any more whatever happens."""
        return not self._ledger.running and (self._draining or not self._unended)

    @property
    def running(self) -> Mapping[int, tuple[Unit, ...]]:
        """The units on each busy worker that have not ended."""
        return MappingProxyType(self._ledger.running)

    @property
    def idle_workers(self) -> tuple[int, ...]:
        """The workers that are there and run nothing, ascending."""
        return tuple(bits(self._progress.idle))

    def done(self, model: str) -> Done:
        """How far a model has come: its units that ended well."""
        return self._progress.places[self._progress.index[model]].done()

    def nominal_seconds(self, unit: Unit) -> float:
        """What a unit is expected to take."""
        return self._progress.places[self._progress.index[unit.model]].nanoseconds(unit) / 1e9

    def handle(self, *events: Event | Drain | Assign | Hold) -> list[Launch | Abandon]:
        """Take in what happened and what was changed, and give what is to be done.

        Events that happened at once are best given together: what is decided then knows all of them.

        Raises:
            InternalError: an event that cannot have happened, or a decision that breaks an invariant.
        """
        commands: list[Launch | Abandon] = []
        for event in events:
            match event:
                case UnitFinished(unit, worker):
                    self._finish(unit, worker)
                case UnitFailed(unit, worker):
                    self._free(unit, worker, happened=False)
                    self._give_up(unit)
                case WorkerLost():
                    commands += self._lose(event)
                case WorkerJoined(worker):
                    self._join(worker)
                case Assign():
                    self._assign(event)
                case Hold(model):
                    self._hold(model)
                case Drain():
                    self._draining = True
                case _:
                    raise InternalError(f"not for the scheduler: {event}")
        return commands + self._launches()

    def _launches(self) -> list[Launch | Abandon]:
        launches: list[Launch | Abandon] = []
        progress = self._progress
        while progress.idle and not self._draining and (choice := self._policy.choose()) is not None:
            unit = progress.places[choice.model].unit(choice.shard)
            self._check_present(choice.worker, unit)
            fellows = self._fellows(choice.model, choice.worker, unit)
            reading = progress.residency.enter(unit.kind, unit.shard)
            launch = progress.launch(choice.model, choice.worker, unit, tuple(fellows.values()), reading)
            self._ledger.launch(launch.unit, launch.worker, launch.fellows)
            for model, its_unit in {choice.model: unit, **fellows}.items():
                progress.start(model, choice.worker, its_unit)
            launches.append(launch)
        return launches

    def _fellows(self, model: int, worker: int, unit: Unit) -> dict[int, Unit]:
        """The units that are made in the same pass, by model; one that workers have died on is made alone."""
        found = self._progress.fellows(model, worker, unit)
        if not self._deaths:
            return dict(found)
        if unit in self._deaths:
            return {}
        return {other: its_unit for other, its_unit in found if its_unit not in self._deaths}

    def _check_present(self, worker: int, unit: Unit) -> None:
        if not self._workers >> worker & 1:
            raise InternalError(f"{unit.model} is to run on worker {worker}, which is not there")

    def _assign(self, change: Assign) -> None:
        """A model is new, or is to be trained further or less far; one that was given up stays as it is."""
        known = self._progress.index.get(change.chain.model)
        if known in self._given_up:
            return
        units = (unit for units in self._ledger.running.values() for unit in units)
        running = next((unit for unit in units if unit.model == change.chain.model), None)
        self._ledger.assign(change)
        model = self._progress.assign(change, running=running)
        if self._progress.places[model].ended:
            self._unended.discard(model)
        else:
            self._unended.add(model)
        if self._progress.needs[model]:
            self._policy.ready(model)

    def _hold(self, name: str) -> None:
        model = self._progress.index.get(name)
        if model is not None:  # others have no work here that could be launched
            self._progress.hold(model)
            self._unended.discard(model)

    def _finish(self, unit: Unit, worker: int) -> None:
        self._free(unit, worker, happened=True)
        model = self._progress.index[unit.model]
        self._progress.finish(model, worker, unit)
        if self._deaths:
            self._deaths.pop(unit, None)
        if self._progress.needs[model]:
            self._policy.ready(model)
        else:
            self._unended.discard(model)

    def _lose(self, lost: WorkerLost) -> list[Launch | Abandon]:
        """A worker is gone; its units go back, unless one has killed too many."""
        worker, running = lost.worker, self._ledger.running.get(lost.worker, ())
        if lost.units != running:
            raise InternalError(f"worker {worker} was lost with {lost.units}, it had {running}")
        for unit in running:
            self._free(unit, worker, happened=False)
        self._workers &= ~(1 << worker)
        self._progress.idle &= self._workers
        return [abandon for unit in running for abandon in self._put_back(unit, lost.cause)]

    def _put_back(self, unit: Unit, cause: str) -> list[Launch | Abandon]:
        """A unit has not happened because its worker died."""
        self._deaths[unit] = self._deaths.get(unit, 0) + 1
        if self._deaths[unit] >= DEATHS_MAX:
            self._give_up(unit)
            return [Abandon(unit, f"{DEATHS_MAX} workers died on it, the last one: {cause}")]
        model = self._progress.index[unit.model]
        self._progress.put_back(model, unit)
        if self._progress.needs[model]:
            self._policy.ready(model)
        return []

    def _join(self, worker: int) -> None:
        if not 0 <= worker < self.workload.workers or self._workers >> worker & 1:
            raise InternalError(f"worker {worker} of {self.workload.workers} joined, and was there or is one too many")
        self._workers |= 1 << worker
        self._progress.idle |= 1 << worker

    def _free(self, unit: Unit, worker: int, *, happened: bool) -> None:
        self._ledger.end(unit, worker, happened=happened)
        if worker not in self._ledger.running:
            self._progress.idle |= 1 << worker
            self._progress.residency.leave(unit.kind, unit.shard, happened=happened)

    def _give_up(self, unit: Unit) -> None:
        model = self._progress.index[unit.model]
        self._progress.give_up(model, unit)
        self._given_up.add(model)
        self._unended.discard(model)
