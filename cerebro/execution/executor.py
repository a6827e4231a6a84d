"""The thin loop between the scheduler, which decides, the engine, which does, and the recorder, which remembers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from cerebro.execution.deadlines import Deadlines
from cerebro.execution.engine import Engine, StateHandle
from cerebro.execution.forecast import nominal_seconds
from cerebro.execution.scheduler import Scheduler
from cerebro.messages import Abandon, Drain, Event, Launch, Unit, UnitFailed, UnitFinished

_TICK_SECONDS = 0.2

Partials = Mapping[str, Any]


class Log(Protocol):
    """Where the executor reports to; the recorder, in a real run."""

    def record(self, event: Event, state: StateHandle | None) -> None:
        """Remember an event; `state` comes with the end of a train unit, and is to be released."""
        ...

    def settle(self) -> None:
        """Nothing has happened for a moment: a good time to write what waits."""
        ...


class Watch(Protocol):
    """Who looks on; the live display, in a real run."""

    def launched(self, launch: Launch) -> None: ...

    def happened(self, event: Event) -> None: ...

    def tick(self) -> None: ...


class Executor:
    """Runs a workload to its end; workers that are past their deadline are killed."""

    def __init__(
        self, scheduler: Scheduler, engine: Engine, log: Log, watch: Watch, deadlines: Deadlines | None = None
    ) -> None:
        self._scheduler, self._engine, self._log, self._watch = scheduler, engine, log, watch
        self._deadlines = deadlines or Deadlines(nominal_seconds(scheduler.workload))
        self._partials: dict[tuple[str, str, int], list[Partials]] = {}

    def run(
        self,
        joined: Iterable[Event],
        earlier: Iterable[tuple[Unit, Partials]] = (),
        interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run until every model has ended; gives whether it came to that.

        `joined` are the workers that are already there, `earlier` the units of a former run with their metric
        partials. When `interrupted` says so, no unit is started any more, and those that run may end.
        """
        for unit, partials in earlier:
            self._remember(unit, partials)
        self._handle(list(joined))
        drained = False
        while not self._scheduler.finished:
            if not drained and interrupted():
                drained = True
                self._scheduler.handle(Drain("interrupted"))  # launches nothing from here on
                continue
            self._handle(self._heard())
            for late in self._deadlines.late():
                self._engine.kill_worker(late.worker, late.cause)
            self._watch.tick()
        return not drained

    def _heard(self) -> list[Event]:
        """All that has happened by now: decisions are better when endings of one moment are known together."""
        event, events = self._engine.wait(_TICK_SECONDS), list[Event]()
        while event is not None:
            events.append(event)
            event = self._engine.wait(0)
        return events

    def _handle(self, events: Sequence[Event]) -> None:
        ended = [(event, self._taken_in(event)) for event in events]
        commands = self._scheduler.handle(*events) if events else []
        for command in commands:
            if isinstance(command, Launch):
                self._launch(command)
        # The workers are busy again: only now may something wait for the disk.
        for event, state in ended:
            self._log.record(event, state)
        for command in commands:
            if isinstance(command, Abandon):
                self._give_up(command)
        if not events:
            self._log.settle()

    def _taken_in(self, event: Event) -> StateHandle | None:
        """The state that a train unit ended in, held before its model goes on."""
        self._deadlines.heard(event)
        self._watch.happened(event)
        if not isinstance(event, UnitFinished):
            return None
        self._remember(event.unit, event.partials)
        return self._engine.state(event.unit.model) if event.unit.kind == "train" else None

    def _launch(self, launch: Launch) -> None:
        unit = launch.unit
        prior = self._partials.get((unit.model, unit.kind, unit.epoch), ())
        self._engine.submit(launch, tuple(dict(partials) for partials in prior))
        self._deadlines.submitted(launch)
        self._watch.launched(launch)

    def _give_up(self, abandon: Abandon) -> None:
        failed = UnitFailed(abandon.unit, -1, "failed", abandon.reason)
        self._log.record(failed, None)
        self._watch.happened(failed)

    def _remember(self, unit: Unit, partials: Partials) -> None:
        """Keep the metric partials of the epoch that a model is in; those of its earlier epochs are not needed."""
        key = (unit.model, unit.kind, unit.epoch)
        self._partials.setdefault(key, []).append(partials)
        self._partials.pop((unit.model, unit.kind, unit.epoch - 1), None)
