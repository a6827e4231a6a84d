"""The simulated engine: an engine like any other, but for its clock."""

from dataclasses import replace
from pathlib import Path

import pytest

from cerebro.engines.simulated import SimulatedEngine, initial_state, mortal, noisy, state_after, without_optimizer
from cerebro.errors import EngineError
from cerebro.execution.engine import StateHandle
from cerebro.execution.profiler import as_profile
from cerebro.messages import Launch, Pilot, Piloted, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import Ancestor, Member, Program
from cerebro.testing.engine_conformance import CHECKS, Subject, check_engine

MEMBERS = {model: Member({}) for model in ("m001", "m002", "m003")}
PROGRAM = Program(build=dict, data=Path("nowhere"), seed=7, members=MEMBERS)


def one_second(unit: Unit) -> float:
    return 1.0


def make_engine() -> SimulatedEngine:
    return SimulatedEngine(one_second, lambda unit, attempt: "failed" if unit.model == "m003" else "finished")


SUBJECT = Subject(make_engine, PROGRAM, ("m001", "m002"), train_shards=3, valid_shards=2, failing_model="m003")


def opened(engine: SimulatedEngine, workers: int = 2) -> SimulatedEngine:
    engine.open(PROGRAM, workers, lambda model: None)
    assert [engine.wait() for _ in range(workers)] == [WorkerJoined(w, {"engine": "simulated"}) for w in range(workers)]
    return engine


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_simulated_engine_conforms(check):
    check(SUBJECT)


def test_all_checks_run_at_once():
    check_engine(make_engine, PROGRAM, ("m001", "m002"), 3, 2, "m003")


class ForgetsItsHandles(SimulatedEngine):
    def state(self, model):
        class Live(StateHandle):
            def view(live):
                return memoryview(self._states[model])

            def release(live):
                pass

        return Live()


class NeverRestores(SimulatedEngine):
    def open(self, program, workers, restore):
        super().open(program, workers, lambda model: None)


class RemembersAll(SimulatedEngine):
    def forget(self, model):
        pass


class StartsClonesAnew(SimulatedEngine):
    def open(self, program, workers, restore):
        super().open(program, workers, lambda model: restore(model) if model in program.members else None)


class ResetsWhatWasKept(SimulatedEngine):
    def introduce(self, model, member):
        super().introduce(
            model, replace(member, ancestor=member.ancestor and replace(member.ancestor, optimizer="reset"))
        )


class SaysAllTwice(SimulatedEngine):
    def _say(self, seconds, *events):
        super()._say(seconds, *events)
        super()._say(seconds, *events)


class LetsTheWorkerShow(SimulatedEngine):
    def wait(self, timeout_seconds=None):
        event = super().wait(timeout_seconds)
        if isinstance(event, UnitFinished):
            self._states[event.unit.model] += bytes([event.worker])
        return event


class TrainsWhenItMeasures(SimulatedEngine):
    def wait(self, timeout_seconds=None):
        event = super().wait(timeout_seconds)
        if isinstance(event, UnitFinished) and event.unit.kind == "valid":
            self._states[event.unit.model] = state_after(self._states[event.unit.model], event.unit)
        return event


class LosesNoUnit(SimulatedEngine):
    def kill_worker(self, number, cause="killed"):
        self._commands[number] = None
        super().kill_worker(number, cause)


class TakesFailuresForDeaths(SimulatedEngine):
    def _say(self, seconds, *events):
        told = (WorkerLost(e.worker, "", e.unit) if isinstance(e, UnitFailed) else e for e in events)
        super()._say(seconds, *told)


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        (ForgetsItsHandles, "a_handle_keeps_its_state"),
        (NeverRestores, "a_lost_state_is_restored"),
        (NeverRestores, "a_restored_state_can_be_measured"),
        (RemembersAll, "a_forgotten_model_is_restored"),
        (StartsClonesAnew, "a_clone_goes_on_like_its_ancestor"),
        (ResetsWhatWasKept, "a_clone_goes_on_like_its_ancestor"),
        (SaysAllTwice, "every_worker_joins_once"),
        (LetsTheWorkerShow, "a_state_is_the_same_on_any_workers"),
        (TrainsWhenItMeasures, "validation_leaves_the_state_alone"),
        (LosesNoUnit, "a_killed_worker_loses_only_its_unit"),
        (TakesFailuresForDeaths, "a_failing_model_fails_alone"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_engine_does_not_conform(engine: type[SimulatedEngine], check: str):
    broken = replace(SUBJECT, make_engine=lambda: engine(one_second, make_engine()._fate))
    with pytest.raises(AssertionError):
        next(c for c in CHECKS if c.__name__ == check)(broken)


def test_a_state_tells_all_visits_in_order():
    engine = opened(make_engine())
    units = [Unit("m001", "train", 1, 0, 2), Unit("m001", "train", 1, 1, 0)]
    for unit in units:
        engine.submit(Launch(unit, 0))
        engine.wait()
    expected = state_after(state_after(initial_state(PROGRAM, "m001"), units[0]), units[1])
    assert bytes(engine.state("m001").view()) == expected


def test_a_clone_continues_the_chain_of_its_ancestor():
    engine, unit = make_engine(), Unit("m009", "train", 1, 1, 0)
    engine.open(PROGRAM, 1, {"m009": b"of m001"}.get)
    engine.wait()
    engine.introduce("m009", Member({}, ancestor=Ancestor("m001", "", "reset", 1, (2,))))
    engine.submit(Launch(unit, 0))
    engine.wait()
    assert bytes(engine.state("m009").view()) == state_after(without_optimizer(b"of m001"), unit)


def test_each_repeat_starts_from_a_state_of_its_own():
    states = set[bytes]()
    for repeat in (0, 1):
        engine = opened(make_engine(), 1)
        engine.introduce("m001", Member({}, repeat))
        engine.submit(Launch(Unit("m001", "train", 1, 0, 0), 0))
        engine.wait()
        states.add(bytes(engine.state("m001").view()))
    assert len(states) == 2


def test_the_clock_jumps_to_the_next_event():
    engine = opened(SimulatedEngine(lambda unit: 3600.0 if unit.model == "m001" else 60.0))
    engine.submit(Launch(Unit("m001", "train", 1, 0, 0), 0))
    engine.submit(Launch(Unit("m002", "train", 1, 0, 0), 1))
    ends = [(engine.wait().unit.model, engine.now) for _ in range(2)]
    assert ends == [("m002", 60.0), ("m001", 3600.0)]


def test_a_unit_that_is_to_die_takes_its_worker_with_it_once():
    engine = opened(SimulatedEngine(one_second, lambda unit, attempt: "killed" if attempt == 0 else "finished"), 1)
    unit = Unit("m001", "train", 1, 0, 0)
    engine.submit(Launch(unit, 0))
    assert [engine.wait(), engine.wait()] == [
        WorkerLost(0, "killed by the simulation", unit),
        WorkerJoined(0, {"engine": "simulated"}),
    ]
    engine.submit(Launch(unit, 0))
    assert isinstance(engine.wait(), UnitFinished)


def test_a_pilot_gives_a_profile_that_the_planner_takes():
    engine = opened(make_engine(), 1)
    engine.submit(Pilot("m001", 0, 3))
    event = engine.wait()
    assert isinstance(event, Piloted)
    profile = as_profile(event.profile)
    assert (profile.metrics, profile.train_batch_seconds, profile.impure_tensor) == (("loss",), 0.1, None)


def test_a_busy_worker_takes_no_second_command():
    engine = opened(make_engine(), 1)
    engine.submit(Launch(Unit("m001", "train", 1, 0, 0), 0))
    with pytest.raises(EngineError, match="worker 0 is not idle"):
        engine.submit(Launch(Unit("m002", "train", 1, 0, 0), 0))


def test_noise_is_the_same_for_the_same_unit():
    unit, seconds = Unit("m001", "train", 1, 0, 0), noisy(one_second, 0.1, seed=3)
    assert seconds(unit) == seconds(unit) != noisy(one_second, 0.1, seed=4)(unit)
    assert all(0.9 <= seconds(Unit("m001", "train", 1, n, n)) <= 1.1 for n in range(100))


def test_as_many_units_die_as_was_asked():
    fate = mortal(0.2, 0.1)
    fates = [fate(Unit("m001", "train", 1, n, n), attempt) for n in range(500) for attempt in (0, 1)]
    assert 150 < fates.count("killed") < 250
    assert 60 < fates.count("failed") < 140
