"""What an engine is: a back end that runs units. New ones pass `cerebro.testing.engine_conformance`."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from cerebro.messages import Event, Launch, Pilot
from cerebro.plan.features import Features
from cerebro.plan.program import Member, Program

Restore = Callable[[str], bytes | None]
"""Gives the durable state of a model, or None where it has none: it starts from its initialisation.

Of a clone that has not trained yet it gives the state of its ancestor.
"""


Prior = tuple[dict[str, object], ...]
"""The metric partials of the earlier visits of a unit's model, epoch and kind, in order."""


class StateHandle(ABC):
    """The bytes of a model's state after one unit, kept as they are until `release`."""

    @abstractmethod
    def view(self) -> memoryview:
        """The bytes, read in place."""

    @abstractmethod
    def release(self) -> None:
        """Give the memory back; `view` must not be used after it."""


class BytesHandle(StateHandle):
    """A state that nobody else writes to."""

    def __init__(self, state: bytes) -> None:
        self._state = state

    def view(self) -> memoryview:
        return memoryview(self._state)

    def release(self) -> None:
        self._state = b""


class Engine(ABC):
    """Runs units on workers and tells what became of them.

    Duties of an implementation:

    - `open` starts the workers, numbered from 0; each says `WorkerJoined` once through `wait`.
    - `introduce` tells of a model that was not among the program's members, before it is submitted.
    - `prefer` passes on to the workers how they are to come by derived columns; ignoring it changes no bit.
    - `submit` hands one command to an idle worker and returns at once. The engine keeps the state of each model
      between its units and brings it to where the next one runs; for a model that it has no state of, it asks
      `restore`. A unit that its member's ancestor `is_adopted_by` starts from that one's state, which it adopts.
    - `wait` gives the next event. Every submitted unit ends in exactly one of `UnitFinished`, `UnitFailed`, or a
      `WorkerLost` that carries it. A lost worker is replaced by another of the same number, which says
      `WorkerJoined` again. A unit that did not finish leaves its model's state as it was before.
    - A launch with fellows is one pass of several models over a shard: each unit ends with the bits of being run
      alone, unless the launch names a kernel, in an event of its own. These events come in order and at one moment; all
      but the last say `more`.
    - `UnitFinished.kernel` says how a unit was computed, which need not be how it was to be: a pass that cannot be made
      is run model by model, by the reference kernel.
    - `state` gives a handle on the present state of a model whose train unit has just finished.
    - `forget` drops the state of a model from memory until it is submitted again.
    - `kill_worker` ends a worker that hangs, as the system would.
    - `close` ends all workers and frees their memory, whatever they are doing; it may be called twice, and on an
      engine that was never opened.
    """

    @abstractmethod
    def open(self, program: Program, workers: int, restore: Restore) -> None:
        """Start the workers.

        Raises:
            EngineError: they cannot be started, with the reason.
        """

    @abstractmethod
    def introduce(self, model: str, member: Member) -> None:
        """Know of a model that was not among the program's members; it may be submitted from now on.

        A model that is known as another member must not be in a unit; what the engine held of it is forgotten.
        """

    def prefer(self, features: Features) -> None:  # noqa: B027  # an engine that derives no columns has no use for it
        """Let workers come to derived columns as `features` says, from the next submission on; it changes no bit."""

    @abstractmethod
    def submit(self, command: Launch | Pilot, *priors: Prior) -> None:
        """Hand a command to the idle worker that it names.

        `priors` holds for each of its units the metric partials of the earlier visits of the same model, epoch and
        kind, in order; the unit that ends a split needs them to give the values of the whole epoch. Without any,
        there were no earlier visits.
        """

    @abstractmethod
    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        """The next event, or None when nothing happened in time.

        With a timeout of 0 only what has happened already. An engine without processes of its own does its work in
        here, and gives None at once when there is none.
        """

    @abstractmethod
    def state(self, model: str) -> StateHandle:
        """A handle on the present state of `model`."""

    @abstractmethod
    def forget(self, model: str) -> None:
        """Drop the state of `model`, which is durable, from memory; if it is submitted again, `restore` is asked.

        Handles keep what they show. A model of which the engine holds nothing may be forgotten, too.
        """

    @abstractmethod
    def kill_worker(self, number: int, cause: str = "killed") -> None:
        """Kill a worker that was started, whatever it is doing; returns at once.

        It is reported as `WorkerLost` with this cause and the unit that it ran, unless that had ended by then. An
        engine whose work is done inside `wait` drops what that worker was given and has not begun.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers."""
