"""Everything in the caller's own process, one unit at a time: for debugging, replay and the proof of equivalence."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cerebro.engines.border import run_launch, run_pilot
from cerebro.execution.engine import BytesHandle, Engine, Prior, Restore, StateHandle
from cerebro.messages import Event, Launch, Pilot, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.features import Features
from cerebro.plan.program import Member, Program
from cerebro.training.devices import one_thread, set_threads, steady_cudnn
from cerebro.training.fingerprint import fingerprint
from cerebro.training.randomness import preserved_generators
from cerebro.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class _Pending:
    """What is done when `wait` is called next; with the unit's launch, if it is one."""

    worker: int
    work: Callable[[], Sequence[Event]]
    launch: Launch | None = None


class InlineEngine(Engine):
    """Runs units in this process when `wait` is called; `workers` says only how many units may be submitted at once.

    Training uses one thread, and steady kernels of cuDNN, as in the workers of the local engine; the caller's own, and
    its random generators, are put back.
    """

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        self._pending: deque[_Pending] = deque()
        self._happened = deque[Event]()
        """What `wait` has not given yet: the units of one pass end together."""
        self._before: tuple[int, bool] | None = None
        self._opened = time.monotonic()

    def open(self, program: Program, workers: int, restore: Restore) -> None:
        self._before = one_thread(), steady_cudnn()
        self._opened, self._restore = time.monotonic(), restore
        device = "cuda:0" if program.device == "cuda" else program.device
        self._trainer = Trainer(program, device)
        self._joined = joined = fingerprint(device)
        for number in range(workers):
            self._pending.append(_Pending(number, lambda number=number: [WorkerJoined(number, joined)]))

    def introduce(self, model: str, member: Member) -> None:
        if self._trainer.introduce(model, member):
            self._states.pop(model, None)

    def prefer(self, features: Features) -> None:
        self._trainer.prefer(features)

    def submit(self, command: Launch | Pilot, *priors: Prior) -> None:
        match command:
            case Pilot():
                work = partial(run_pilot, self._trainer, command, catch=Exception)
                self._pending.append(_Pending(command.worker, lambda: [work()]))
            case Launch():
                self._pending.append(_Pending(command.worker, partial(self._run, command, priors), command))

    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        if not self._happened:
            if not self._pending or timeout_seconds == 0:
                return None  # nothing happens here by itself
            with preserved_generators():
                self._happened.extend(self._pending.popleft().work())
        return self._happened.popleft()

    def state(self, model: str) -> StateHandle:
        return BytesHandle(self._states[model])

    def forget(self, model: str) -> None:
        self._states.pop(model, None)
        self._trainer.forget(model)

    def kill_worker(self, number: int, cause: str = "killed") -> None:
        dropped = [pending for pending in self._pending if pending.worker == number]
        self._pending = deque(pending for pending in self._pending if pending.worker != number)
        units = next((pending.launch.units for pending in dropped if pending.launch is not None), (None,))
        for event in (WorkerLost(number, cause, units[0], units[1:]), WorkerJoined(number, self._joined)):
            self._pending.append(_Pending(number, lambda event=event: [event]))

    def close(self) -> None:
        self._pending.clear()
        self._happened.clear()
        self._states.clear()
        if self._before is not None:
            threads, is_steady = self._before
            set_threads(threads)
            steady_cudnn(is_steady)
            self._before = None

    def _run(self, launch: Launch, priors: Sequence[Prior]) -> Sequence[Event]:
        started, after = time.monotonic() - self._opened, dict[str, bytes]()

        def keep(trainer: Trainer, model: str) -> int:
            after[model] = trainer.state(model)
            return len(after[model])

        parents = [self._parent(unit.model) for unit in launch.units]
        events = run_launch(self._trainer, launch, parents, priors, keep, catch=Exception)
        for event in events:
            if isinstance(event, UnitFinished) and event.unit.kind == "train":
                self._states[event.unit.model] = after[event.unit.model]
        return [replace(e, started=started + e.started) if isinstance(e, UnitFinished) else e for e in events]

    def _parent(self, model: str) -> memoryview | None:
        state = self._states.get(model) or self._restore(model)
        return None if state is None else memoryview(state)
