"""The thin loop between the scheduler, which decides, the engine, which does, and the recorder, which remembers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cerebro.errors import InternalError
from cerebro.execution.deadlines import Deadlines
from cerebro.execution.engine import Engine, StateHandle
from cerebro.execution.scheduler import Scheduler
from cerebro.messages import Abandon, Drain, Event, Launch, Ruling, Unit, UnitFailed, UnitFinished
from cerebro.plan.program import Member
from cerebro.plan.workload import Assign, Change, Hold

_TICK_SECONDS = 0.2

Partials = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A ruling, and what has to be done for it."""

    ruling: Ruling
    change: Change | None = None
    member: Member | None = None
    """A new model."""
    state: StateHandle | None = None
    """What a new model starts from, if not from its initialisation."""
    earlier: tuple[tuple[Unit, Partials], ...] = ()
    """The visits of its epoch that a new model has behind it, as its ancestor made them."""
    others: tuple[Change, ...] = ()
    """What changes for other models at the same time."""


class Steering(Protocol):
    """Who decides which models live and how far they train, in a run whose workload is not fixed."""

    @property
    def over(self) -> bool:
        """Whether nothing will be decided any more by itself."""
        ...

    def handle(self, events: Sequence[Event]) -> Sequence[Step]:
        """Take in what happened, and what people ask meanwhile; gives what is to be done."""
        ...


class Fixed:
    """Decides nothing: the workload stays what it is."""

    over = True

    def handle(self, events: Sequence[Event]) -> Sequence[Step]:
        """Nothing is to be done."""
        return ()


class Log(Protocol):
    """Where the executor reports to; the recorder, in a real run."""

    def record(self, event: Event | Ruling, state: StateHandle | None) -> None:
        """Remember an event; `state` comes with the end of a train unit, and is to be released."""
        ...

    def make_room(self, units: int) -> None:
        """So many units have finished: wait until they may be the ones that a kill costs."""
        ...

    def settle(self) -> None:
        """Nothing has happened for a moment: a good time to write what waits."""
        ...

    def written(self) -> Callable[[], bool]:
        """Begin to write what waits; gives the question whether it is durable by now."""
        ...


class Watch(Protocol):
    """Who looks on; the live display, in a real run."""

    def launched(self, launch: Launch) -> None: ...

    def happened(self, event: Event) -> None: ...

    def ruled(self, step: Step) -> None: ...

    def tick(self) -> None: ...


class Executor:
    """Runs a workload to its end; workers that are past their deadline are killed."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        log: Log,
        watch: Watch,
        deadlines: Deadlines | None = None,
        steering: Steering | None = None,
    ) -> None:
        self._scheduler, self._engine, self._log, self._watch = scheduler, engine, log, watch
        self._deadlines = deadlines or Deadlines(scheduler.nominal_seconds)
        self._steering = steering or Fixed()
        self._partials: dict[tuple[str, str, int], list[Partials]] = {}
        self._given_up: list[Event] = []
        """Models that were given up, of which the steering has not heard."""
        self._resting: dict[str, Callable[[], bool]] = {}
        """Models that are not trained on for now, and whether their states are durable."""

    def run(
        self,
        joined: Iterable[Event],
        earlier: Iterable[tuple[Unit, Partials]] = (),
        interrupted: Callable[[], bool] = lambda: False,
        begun: Sequence[Step] = (),
    ) -> bool:
        """Run until every model has ended, and nothing more is decided; gives whether it came to that.

        `joined` are the workers that are already there, `earlier` the units of a former run with their metric
        partials, `begun` what was decided before. When `interrupted` says so, no unit is started any more, and those
        that run may end.
        """
        for unit, partials in earlier:
            self._remember(unit, partials)
        if drained := interrupted():
            self._scheduler.handle(Drain("interrupted"))
        self._handle(list(joined), begun)
        while not self._is_over(drained):
            if not drained and interrupted():
                drained = True
                self._scheduler.handle(Drain("interrupted"))  # launches nothing from here on
                continue
            self._handle(self._heard())
            for late in self._deadlines.late():
                self._engine.kill_worker(late.worker, late.cause)
            self._watch.tick()
        return not drained

    def _is_over(self, drained: bool) -> bool:
        if not self._scheduler.finished or self._given_up:
            return False
        return drained or self._steering.over

    def _heard(self) -> list[Event]:
        """All that has happened by now: decisions are better when endings of one moment are known together."""
        event, events = self._engine.wait(_TICK_SECONDS), list[Event]()
        while event is not None:
            events.append(event)
            event = self._engine.wait(0)
        return events

    def _handle(self, events: Sequence[Event], begun: Sequence[Step] = ()) -> None:
        self._log.make_room(sum(isinstance(event, UnitFinished) and not event.more for event in events))
        ended = [(event, self._taken_in(event)) for event in events]
        steps = [*begun, *self._steering.handle([*self._given_up, *events])]
        self._given_up = []
        for step in steps:
            self._prepare(step)
        changes = [change for step in steps for change in (step.change, *step.others) if change is not None]
        commands = self._scheduler.handle(*events, *changes) if events or changes else []
        for command in commands:
            if isinstance(command, Launch):
                self._launch(command)
        for event, state in ended:  # now that the workers are busy again
            self._log.record(event, state)
        for step in steps:
            self._log.record(step.ruling, step.state)
            self._watch.ruled(step)
        for command in commands:
            if isinstance(command, Abandon):
                self._give_up(command)
        self._let_rest(events, steps)
        if not (events or steps):
            self._log.settle()
            self._check_progress()

    def _let_rest(self, events: Sequence[Event], steps: Sequence[Step]) -> None:
        """Let the engine forget the states of models that have come to rest, once they are durable."""
        came = {event.unit.model for event in events if isinstance(event, UnitFinished)} & self._resting.keys()
        came |= {event.unit.model for event in events if isinstance(event, UnitFailed)}
        for step in steps:
            if isinstance(step.change, Assign):
                came.discard(step.change.chain.model)
                self._resting.pop(step.change.chain.model, None)
            elif step.ruling.model is not None and (
                isinstance(step.change, Hold) or step.ruling.kind == "model finished"
            ):
                came.add(step.ruling.model)
        if came:
            self._resting |= dict.fromkeys(came, self._log.written())
        busy = {unit.model for units in self._scheduler.running.values() for unit in units}
        for model in [model for model, is_durable in self._resting.items() if model not in busy and is_durable()]:
            del self._resting[model]
            self._engine.forget(model)

    def _prepare(self, step: Step) -> None:
        """Let the engine know of a new model before anything of it is launched."""
        if step.member is not None:
            assert isinstance(step.change, Assign), "a new model has work to do"
            self._engine.introduce(step.change.chain.model, step.member)
            for unit, partials in step.earlier:
                self._remember(unit, partials)

    def _check_progress(self) -> None:
        """A run in which nothing runs and nobody decides anything would wait for ever."""
        if self._scheduler.finished and not self._scheduler.running and not self._steering.over:
            raise InternalError("nothing runs, and the procedure waits for results that will not come")

    def _taken_in(self, event: Event) -> StateHandle | None:
        """The state that a train unit ended in, held before its model goes on."""
        self._deadlines.heard(event)
        self._watch.happened(event)
        if not isinstance(event, UnitFinished):
            return None
        self._remember(event.unit, event.partials)
        return self._engine.state(event.unit.model) if event.unit.kind == "train" else None

    def _launch(self, launch: Launch) -> None:
        priors = (self._partials.get((unit.model, unit.kind, unit.epoch), ()) for unit in launch.units)
        self._engine.submit(launch, *(tuple(dict(partials) for partials in prior) for prior in priors))
        self._deadlines.submitted(launch)
        self._watch.launched(launch)

    def _give_up(self, abandon: Abandon) -> None:
        failed = UnitFailed(abandon.unit, -1, "failed", abandon.reason)
        self._log.record(failed, None)
        self._watch.happened(failed)
        self._given_up.append(failed)

    def _remember(self, unit: Unit, partials: Partials) -> None:
        """Keep the metric partials of the epoch that a model is in; those of its earlier epochs are not needed."""
        key = (unit.model, unit.kind, unit.epoch)
        self._partials.setdefault(key, []).append(partials)
        self._partials.pop((unit.model, unit.kind, unit.epoch - 1), None)
