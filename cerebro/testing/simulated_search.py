"""A whole search on a virtual clock: a procedure with the real steering, executor and scheduler, and nothing trained.

    run = SimulatedSearch(ASHA(space, models=20, max_epochs=9), Terms(0, "max", 9), Setting(score, workers=4))
    run.configs, run.epochs, run.rulings, run.engine.now

What a model comes to is a function of its config and the epoch, such as a learning curve that was recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro.control.procedure import Procedure, Terms
from cerebro.control.steering import Steering
from cerebro.engines.simulated import Fate, SimulatedEngine
from cerebro.execution.engine import StateHandle
from cerebro.execution.executor import Executor, Step
from cerebro.execution.policies.longest_remaining import LongestRemaining
from cerebro.execution.resume import Finish
from cerebro.execution.scheduler import Scheduler
from cerebro.ids import model_index
from cerebro.messages import Event, Launch, Ruling, Unit, UnitFailed, UnitFinished
from cerebro.plan.order import visit_orders
from cerebro.plan.program import Ancestor, Program, member_of
from cerebro.plan.workload import Assign, Chain, Done, Hold, Workload

Config = Mapping[str, Any]


def one_second(config: Config, unit: Unit) -> float:
    """Every unit of every model takes a second."""
    return 1.0


def nothing_fails(unit: Unit, attempt: int) -> Fate:
    """Every unit ends well."""
    return "finished"


@dataclass(frozen=True)
class Setting:
    """What surrounds a procedure."""

    score: Callable[[Config, int], float | None]
    """The deciding metric of a config at the end of an epoch, from 1; None: it is not a number."""
    workers: int = 1
    seconds: Callable[[Config, Unit], float] = one_second
    """How long a unit takes; nobody knows it before."""
    fate: Callable[[Unit, int], Fate] = nothing_fails
    """What becomes of the n-th attempt of a unit, from 0."""
    train_shards: int = 2
    valid_shards: int = 1
    deterministic: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """A model has finished an epoch."""

    seconds: float
    """On the virtual clock."""
    model: str
    epoch: int
    value: float | None


class SimulatedSearch:
    """A search, run to its end."""

    def __init__(self, procedure: Procedure, terms: Terms, setting: Setting) -> None:
        self.configs = dict[str, Config]()
        self.epochs = dict[str, int]()
        """The finished epochs of each model; a clone has those of its ancestor behind it."""
        self.begun = dict[str, int]()
        """The epochs that each model had behind it when it began."""
        self.rulings = list[Ruling]()
        self.ends = list[End]()
        """The finished epochs, in the order in which they ended."""
        self.units = list[Unit]()
        """What ended well, in order."""
        self.failed = set[str]()
        self.busy_seconds = 0.0
        """Of all workers together, in units that ended well."""
        self._terms, self._setting = terms, setting
        self._finish = Finish(setting.train_shards, setting.valid_shards)
        self._forks = dict[tuple[str, int], bytes]()
        self._starts = dict[str, bytes]()
        self.steering = Steering(procedure, terms, deterministic=setting.deterministic)
        self.engine = SimulatedEngine(self._seconds, setting.fate)
        self._run()

    @property
    def visits(self) -> int:
        """Of a model in an epoch."""
        return self._finish.train_visits + self._finish.valid_visits

    @property
    def decisions(self) -> list[tuple[Any, ...]]:
        """What was decided and why, without what is a matter of moments."""
        return [
            (ruling.kind, ruling.model, ruling.until, ruling.told, ruling.due, ruling.why, ruling.member)
            for ruling in self.rulings
            if ruling.kind != "model finished"
        ]

    def state(self, model: str) -> bytes:
        """A hash of all visits of a model, in their order, and of those of its ancestors."""
        return bytes(self.engine.state(model).view())

    def _run(self) -> None:
        workers = self._setting.workers
        self.engine.open(Program(dict, Path(), self._terms.seed), workers, self._starts.get)
        joined = [event for _ in range(workers) if (event := self.engine.wait()) is not None]
        scheduler = Scheduler(Workload((), workers), LongestRemaining())
        executor = Executor(scheduler, self.engine, self, self, steering=self)
        begun = [self._step(ruling) for ruling in self.steering.begin()]
        complete = executor.run(joined, begun=begun)
        assert complete, "nobody interrupts it"

    # What the executor asks who decides.

    @property
    def over(self) -> bool:
        return self.steering.over

    def handle(self, events: Sequence[Event]) -> list[Step]:
        rulings = list[Ruling]()
        for event in events:
            match event:
                case UnitFinished(unit, _, _, seconds):
                    self.busy_seconds += seconds
                    rulings += self._finished(unit)
                case UnitFailed(unit):
                    self.failed.add(unit.model)
                    self.steering.fail(unit.model)
                case _:
                    pass
        return [self._step(ruling) for ruling in [*rulings, *self.steering.advance()]]

    # What the executor tells who remembers, and who looks on.

    def record(self, event: Event | Ruling, state: StateHandle | None) -> None:
        if isinstance(event, Ruling):
            self.rulings.append(event)
        elif isinstance(event, UnitFinished):
            self.units.append(event.unit)

    def make_room(self, units: int) -> None: ...

    def settle(self) -> None: ...

    def written(self) -> Callable[[], bool]:
        return lambda: False  # all states are kept, so that populations can fork

    def launched(self, launch: Launch) -> None: ...

    def happened(self, event: Event) -> None: ...

    def ruled(self, step: Step) -> None: ...

    def tick(self) -> None: ...

    def _seconds(self, unit: Unit) -> float:
        return self._setting.seconds(self.configs[unit.model], unit)

    def _finished(self, unit: Unit) -> list[Ruling]:
        if not self._finish.ends_epoch(unit):
            return []
        model, epoch = unit.model, unit.epoch
        value = self._setting.score(self.configs[model], epoch)
        self.epochs[model] = epoch
        self.ends.append(End(self.engine.now, model, epoch, value))
        if self.steering.is_fork_point(model, epoch):
            self._forks[model, epoch] = self.state(model)
        return self.steering.offer(model, epoch, value)

    def _step(self, ruling: Ruling) -> Step:
        if ruling.member is not None:
            return self._begun(ruling)
        model = ruling.model
        if model is not None and ruling.kind in ("paused", "stopped"):
            return Step(ruling, Hold(model))
        if model is not None and ruling.kind in ("resumed", "extended"):
            return Step(ruling, Assign(self._chain(ruling)))
        return Step(ruling)

    def _begun(self, ruling: Ruling) -> Step:
        assert ruling.member is not None, "a new model is described"
        assert ruling.model is not None, "a new model has a name"
        fork, member, done = ruling.member["ancestor"], member_of({**ruling.member, "ancestor": None}), Done()
        if fork is not None:
            self._starts[ruling.model] = self._forks[fork["model"], fork["at"]]
            ancestor = Ancestor(fork["model"], "", fork["optimizer"], fork["at"] + 1)
            member, done = replace(member, ancestor=ancestor), Done(ancestor.epoch)
        self.configs[ruling.model] = member.config
        self.begun[ruling.model] = self.epochs[ruling.model] = done.epoch - 1
        return Step(ruling, Assign(self._chain(ruling), done), member)

    def _chain(self, ruling: Ruling) -> Chain:
        """Nominal seconds are all alike: nothing is known of a model before it has run."""
        assert ruling.model is not None, "only models have chains"
        assert ruling.until is not None, "it is trained to some epoch"
        shards, until = self._setting.train_shards, ruling.until
        orders = visit_orders("same", self._terms.seed, until, shards, model_index(ruling.model))
        return Chain(ruling.model, until, (1.0,) * shards, (1.0,) * self._setting.valid_shards, orders, ruling.due)
