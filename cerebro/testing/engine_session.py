"""An engine that is checked: how the checks of `cerebro.testing.engine_conformance` open it and run units on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cerebro.execution.engine import Engine, Restore
from cerebro.messages import Event, Kind, Launch, Unit, UnitFinished, WorkerJoined
from cerebro.plan.program import Program


@dataclass(frozen=True)
class Subject:
    """An engine to be checked, and a program for it to run."""

    make_engine: Callable[[], Engine]
    program: Program
    models: tuple[str, str]
    """Two models of the program that can be trained; training must change their states."""
    train_shards: int
    """At least 2."""
    valid_shards: int = 0
    failing_model: str | None = None
    """A model whose code fails in its first unit, if the program has one."""
    workers: int = 2
    patience_seconds: float = 120.0
    """An engine that says nothing for so long has forgotten something."""


@dataclass
class Session:
    """An open engine whose workers have joined, and what was heard from it."""

    subject: Subject
    engine: Engine
    joined: list[int] = field(default_factory=list[int])
    asked: list[str] = field(default_factory=list[str])
    """The models that the engine asked `restore` for."""

    def hear(self) -> Event:
        """The next event."""
        event = self.engine.wait(self.subject.patience_seconds)
        assert event is not None, f"the engine said nothing for {self.subject.patience_seconds} seconds"
        return event

    def run(self, unit: Unit, worker: int = 0, prior: Sequence[dict[str, Any]] = ()) -> UnitFinished:
        """Run one unit while nothing else runs."""
        self.engine.submit(Launch(unit, worker), tuple(prior))
        event = self.hear()
        assert isinstance(event, UnitFinished), f"{unit} ended in {event}"
        assert (event.unit, event.worker) == (unit, worker), f"{unit} on worker {worker} was reported as {event}"
        return event

    def train(self, model: str, visits: int, workers: Sequence[int] = (0,), first: int = 0) -> list[bytes]:
        """The state of `model` after each of some train visits in order, on these workers in turn."""
        states = list[bytes]()
        for number in range(first, first + visits):
            self.run(self.visit(model, number), workers[number % len(workers)])
            states.append(self.state(model))
        return states

    def visit(self, model: str, number: int, kind: Kind = "train") -> Unit:
        """The n-th visit of a model, counted over all epochs."""
        shards = self.subject.train_shards if kind == "train" else self.subject.valid_shards
        return Unit(model, kind, 1 + number // shards, number % shards, number % shards)

    def state(self, model: str) -> bytes:
        """The present state of a model."""
        handle = self.engine.state(model)
        try:
            return bytes(handle.view())
        finally:
            handle.release()


@contextmanager
def opened(subject: Subject, restore: Restore = lambda model: None) -> Iterator[Session]:
    """A new engine, open, all of its workers joined; closed at the end."""
    session = Session(subject, subject.make_engine())

    def noted_restore(model: str) -> bytes | None:
        session.asked.append(model)
        return restore(model)

    try:
        session.engine.open(subject.program, subject.workers, noted_restore)
        while len(session.joined) < subject.workers:
            event = session.hear()
            assert isinstance(event, WorkerJoined), f"before all workers have joined: {event}"
            session.joined.append(event.worker)
        yield session
    finally:
        session.engine.close()


def assert_equal_states(found: Sequence[bytes], expected: Sequence[bytes], complaint: str) -> None:
    """Check that two sequences of states, one after each train visit, are the same."""
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == other, f"{complaint}, first after train visit {number}"
