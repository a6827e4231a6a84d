"""The pilot: each model's failure is its own, and workers that die are tried again."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cerebro.execution.deadlines import Deadlines
from cerebro.execution.engine import Engine, Prior, Restore, StateHandle
from cerebro.execution.profiler import BATCHES, PilotReport, Profiler
from cerebro.execution.scheduler import DEATHS_MAX
from cerebro.messages import Event, Launch, Pilot, Piloted, PilotFailed, WorkerJoined, WorkerLost
from cerebro.plan.cost import Together
from cerebro.plan.program import Program

DESCRIPTION = {
    "architecture": "Net",
    "parameters": 1,
    "optimizer": "SGD",
    "batch_size": 1,
    "eval_batch_size": 1,
    "drop_last": False,
    "metrics": ["loss"],
}


@dataclass
class Scripted(Engine):
    """Answers pilots as a script says: `fails`, `dies` or `hangs`, by (model, batches), so many times; else well."""

    signatures: Mapping[str, str]
    fails: Mapping[tuple[str, int], int] = field(default_factory=dict)
    dies: Mapping[tuple[str, int], int] = field(default_factory=dict)
    hangs: Mapping[tuple[str, int], int] = field(default_factory=dict)
    seconds: tuple[float, ...] = (0.1,)
    """What a batch takes on each worker."""
    compared: tuple[Mapping[str, Any], ...] = ()
    """What each worker says of models that are trained together."""
    clock: list[float] = field(default_factory=lambda: [0.0])
    """The time, which goes on with every wait."""
    pilots: list[tuple[str, int]] = field(default_factory=list)
    events: deque[Event] = field(default_factory=deque)

    def open(self, program: Program, workers: int, restore: Restore) -> None:
        self.events.extend(WorkerJoined(number) for number in range(workers))

    def submit(self, command: Launch | Pilot, *priors: Prior) -> None:
        assert isinstance(command, Pilot)
        key = (command.model, command.batches)
        self.pilots.append(key)
        count = self.pilots.count(key)
        if count <= self.dies.get(key, 0):
            self.events += WorkerLost(command.worker, "killed by SIGKILL"), WorkerJoined(command.worker)
        elif count <= self.hangs.get(key, 0):
            return  # nothing more is heard of it
        elif count <= self.fails.get(key, 0):
            self.events.append(PilotFailed(command.model, command.worker, "Error: no"))
        else:
            self.events.append(Piloted(command.model, command.worker, self._profile(command)))

    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        self.clock[0] += 1.0
        return self.events.popleft() if self.events else None

    def introduce(self, model, member): ...

    def forget(self, model): ...

    def state(self, model: str) -> StateHandle:
        raise NotImplementedError

    def kill_worker(self, number: int, cause: str = "killed") -> None:
        self.events += WorkerLost(number, cause), WorkerJoined(number)

    def close(self) -> None:
        self.events.clear()

    def _profile(self, pilot: Pilot) -> dict[str, Any]:
        if pilot.fellows:
            return {"together": self.compared[pilot.worker], "trials": {"linear": {f"case {pilot.worker}": None}}}
        described = {**DESCRIPTION, "signature": self.signatures[pilot.model]}
        if not pilot.batches:
            return described | {"peak_bytes": 1}
        seconds = self.seconds[pilot.worker % len(self.seconds)]
        return described | {"state_bytes": 8, "train_batch_seconds": seconds, "peak_bytes": 2}


def piloted(engine: Scripted, workers: int = 2) -> PilotReport:
    return profiler_of(engine, workers).run(list(engine.signatures))


def profiler_of(engine: Scripted, workers: int = 2) -> Profiler:
    engine.open(Program(dict, Path(), 0), workers, lambda model: None)
    profiler = Profiler(engine, deadlines=Deadlines(clock=lambda: engine.clock[0], floor_seconds=2.0))
    profiler.wait_for_workers(workers)
    return profiler


ALIKE = {"m001": "a", "m002": "a", "m003": "a", "m004": "b"}


def test_one_model_of_each_signature_is_timed_for_all():
    engine = Scripted(ALIKE)
    report = piloted(engine)
    assert [pilot for pilot in engine.pilots if pilot[1]] == [("m001", BATCHES), ("m004", BATCHES)]
    assert {profile.train_batch_seconds for profile in report.profiles.values()} == {0.1}
    assert (list(report.profiles), report.failures) == (list(ALIKE), {})


def test_a_model_is_timed_on_all_workers_at_once_and_the_mean_counts():
    engine = Scripted({"m001": "a"}, seconds=(0.1, 0.3))
    report = piloted(engine)
    assert engine.pilots == [("m001", 0), ("m001", BATCHES), ("m001", BATCHES)]
    assert (report.profiles["m001"].train_batch_seconds, report.profiles["m001"].peak_bytes) == (0.2, 2)


PAIR = {"m001": "a", "m002": "a"}


def compared(*found: Mapping[str, Any]) -> tuple[Together, Profiler, Scripted]:
    engine = Scripted(PAIR, compared=found)
    profiler = profiler_of(engine)
    together = profiler.run_together([("m001", "m002")], profiler.run(list(PAIR)).profiles)
    return together["m001"], profiler, engine


def test_a_group_is_compared_on_all_workers_at_once_and_the_mean_counts():
    found = ({"train_gain": gain, "valid_gain": 1.0, "first_seconds": 0.1, "deviation": gain} for gain in (2.0, 3.0))
    together, profiler, engine = compared(*found)
    assert [model for model, _ in engine.pilots[-2:]] == ["m001", "m001"]
    assert together == Together(2, "", 2.5, 1.0, 0.1, deviation=3.0)
    assert profiler.trials == {"linear": {"case 0": None, "case 1": None}}


def test_a_group_that_one_worker_cannot_train_together_is_trained_alone():
    together, _, _ = compared({"train_gain": 2.0, "valid_gain": 2.0}, {"why_not": "other bits"})
    assert together.why_not == "other bits"


def test_where_the_timed_model_fails_the_next_is_timed():
    report = piloted(Scripted(ALIKE, fails={("m001", BATCHES): 1, ("m002", BATCHES): 1}))
    assert list(report.profiles) == ["m003", "m004"]
    assert {model: failure.model for model, failure in report.failures.items()} == {"m001": "m001", "m002": "m002"}


def test_a_signature_of_which_all_fail_ends_the_others_nothing():
    report = piloted(Scripted(ALIKE, fails={(model, BATCHES): 1 for model in ("m001", "m002", "m003")}))
    assert (list(report.profiles), list(report.failures)) == (["m004"], ["m001", "m002", "m003"])


@pytest.mark.parametrize("batches", [0, BATCHES])
def test_a_worker_that_dies_once_costs_no_model(batches: int):
    report = piloted(Scripted(ALIKE, dies={("m001", batches): 1}))
    assert (list(report.profiles), report.failures) == (list(ALIKE), {})


@pytest.mark.parametrize("batches", [0, BATCHES])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_model_that_kills_workers_is_given_up(batches: int, workers: int):
    engine = Scripted(ALIKE, dies={("m001", batches): 99})
    report = piloted(engine, workers)
    assert engine.pilots.count(("m001", batches)) - DEATHS_MAX in range(workers)  # others may be under way
    assert report.failures["m001"].error == "3 workers died on its pilot, the last one: killed by SIGKILL"
    assert set(report.profiles) == set(ALIKE) - {"m001"}


@pytest.mark.parametrize("batches", [0, BATCHES])
def test_a_model_that_hangs_is_given_up(batches: int):
    report = piloted(Scripted(ALIKE, hangs={("m001", batches): DEATHS_MAX}))
    assert report.failures["m001"].error.startswith("3 workers died on its pilot, the last one: no progress for")
    assert set(report.profiles) == set(ALIKE) - {"m001"}
