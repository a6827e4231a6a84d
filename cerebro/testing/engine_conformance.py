"""What every engine must do, as checks that a test of an engine runs:

    SUBJECT = Subject(MyEngine, program, models=("m001", "m002"), train_shards=2, valid_shards=2)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(SUBJECT)

A check raises AssertionError and says what the engine did instead. Checks compare states only with states that the
same engine made, so that they need not know what the program computes.
"""

from collections.abc import Callable
from typing import Any

from cerebro.execution.engine import Engine, StateHandle
from cerebro.messages import Launch, Pilot, Piloted, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import Program
from cerebro.testing import engine_members as members
from cerebro.testing import engine_passes as passes
from cerebro.testing.engine_session import Subject, assert_equal_states, opened


def check_engine(
    make_engine: Callable[[], Engine],
    program: Program,
    models: tuple[str, str],
    train_shards: int,
    valid_shards: int = 0,
    failing_model: str | None = None,
) -> None:
    """Run all checks.

    Raises:
        AssertionError: what the engine does and must not, or does not and must.
    """
    subject = Subject(make_engine, program, models, train_shards, valid_shards, failing_model)
    for check in CHECKS:
        check(subject)


def every_worker_joins_once(subject: Subject) -> None:
    """Each worker says so once, by its number."""
    with opened(subject) as session:
        assert sorted(session.joined) == list(range(subject.workers)), f"workers that joined: {session.joined}"


def a_wait_without_events_gives_none(subject: Subject) -> None:
    """When nothing runs, `wait` comes back after its time, with None."""
    with opened(subject) as session:
        event = session.engine.wait(0.05)
        assert event is None, f"an event out of nowhere: {event}"


def every_unit_ends_once(subject: Subject) -> None:
    """Units that run at the same time end in one event each, on the worker that they were given to."""
    with opened(subject) as session:
        for number in range(subject.train_shards):
            launches = [Launch(session.visit(model, number), w) for w, model in enumerate(subject.models)]
            for launch in launches:
                session.engine.submit(launch)
            heard = [session.hear() for _ in launches]
            ended = [Launch(event.unit, event.worker) for event in heard if isinstance(event, UnitFinished)]
            assert sorted(ended, key=lambda launch: launch.worker) == launches, f"{launches} ended in {heard}"
        late = session.engine.wait(0.05)
        assert late is None, f"all units had ended, and then came {late}"


def training_changes_the_state(subject: Subject) -> None:
    """Each train unit gives another state."""
    with opened(subject) as session:
        states = session.train(subject.models[0], subject.train_shards + 1)
        assert len(set(states)) == len(states), "a train unit left the state as it was"


def a_state_is_the_same_on_any_workers(subject: Subject) -> None:
    """A model that hops from worker to worker has the states of one that stays."""
    visits = 2 * subject.train_shards
    with opened(subject) as session:
        stayed = session.train(subject.models[0], visits)
    with opened(subject) as session:
        hopped = session.train(subject.models[0], visits, range(subject.workers))
    assert_equal_states(hopped, stayed, "hopping changed the state")


def models_do_not_disturb_each_other(subject: Subject) -> None:
    """A model that shares its worker with another has the states of one that is alone."""
    one, other = subject.models
    with opened(subject) as session:
        alone = session.train(one, subject.train_shards)
    with opened(subject) as session:
        shared = list[bytes]()
        for number in range(subject.train_shards):
            shared += session.train(one, 1, first=number)
            session.train(other, 1, first=number)
            if subject.valid_shards:
                session.run(session.visit(other, 0, "valid"))
    assert_equal_states(shared, alone, "another model on the same worker changed the state")


def validation_leaves_the_state_alone(subject: Subject) -> None:
    """A valid unit between two train units changes nothing."""
    if not subject.valid_shards:
        return
    model = subject.models[0]
    with opened(subject) as session:
        plain = session.train(model, 2)
    with opened(subject) as session:
        measured = session.train(model, 1)
        session.run(session.visit(model, 0, "valid"), subject.workers - 1)
        assert session.state(model) == measured[0], "a valid unit changed the state"
        measured += session.train(model, 1, first=1)
    assert_equal_states(measured, plain, "validation in between changed the state")


def values_are_those_of_all_visits(subject: Subject) -> None:
    """The values of a split depend on the visits and their order, not on the worker that makes the last one."""
    if not subject.valid_shards:
        return
    model, found = subject.models[0], list[list[Any]]()
    for workers in ((0,), range(subject.workers)):
        with opened(subject) as session:
            session.train(model, 1)
            partials, values = list[dict[str, Any]](), dict[str, float]()
            for number in range(subject.valid_shards):
                unit = session.visit(model, number, "valid")
                event = session.run(unit, workers[number % len(workers)], partials)
                partials.append(dict(event.partials))
                values = dict(event.values)
                assert set(values) == set(event.partials), f"values {values} of partials {event.partials}"
            found.append([partials, values])
    assert found[0] == found[1], f"one worker measured {found[0]}, changing ones {found[1]}"


def a_lost_state_is_restored(subject: Subject) -> None:
    """For a model that it has no state of, an engine asks `restore`, and goes on from what it gets."""
    model = subject.models[0]
    with opened(subject) as session:
        first, second = session.train(model, 2)
        assert model in session.asked, "restore was not asked for a model that is new to the engine"
    with opened(subject, restore=lambda name: first if name == model else None) as session:
        restored = session.train(model, 1, first=1)
    assert_equal_states(restored, [second], "a restored model went on to another state")


def a_restored_state_can_be_measured(subject: Subject) -> None:
    """A valid unit as the first one after a restart measures what was restored."""
    if not subject.valid_shards:
        return
    model = subject.models[0]
    unit = Unit(model, "valid", 1, 0, 0)
    with opened(subject) as session:
        state = session.train(model, 1)[0]
        before = session.run(unit)
    with opened(subject, restore=lambda name: state if name == model else None) as session:
        after = session.run(unit)
    assert after.partials == before.partials, f"measured {before.partials}, and after a restart {after.partials}"


def a_handle_keeps_its_state(subject: Subject) -> None:
    """What a handle shows stays as it is while the model trains on, until it is released."""
    model = subject.models[0]
    with opened(subject) as session:
        handles, states = list[StateHandle](), list[bytes]()
        for number in range(2 * subject.train_shards):
            session.run(session.visit(model, number), number % subject.workers)
            handles.append(session.engine.state(model))
            states.append(bytes(handles[-1].view()))
        kept = [bytes(handle.view()) for handle in handles]
        for handle in handles:
            handle.release()
    assert_equal_states(kept, states, "a state changed under its handle")


def a_pilot_leaves_no_trace(subject: Subject) -> None:
    """A pilot gives a profile, and the model then trains as if there had been none."""
    model = subject.models[0]
    with opened(subject) as session:
        plain = session.train(model, 1)
    with opened(subject) as session:
        for batches in (0, 2):
            session.engine.submit(Pilot(model, 0, batches))
            event = session.hear()
            assert isinstance(event, Piloted), f"a pilot ended in {event}"
            assert (event.model, event.worker) == (model, 0), f"another pilot: {event}"
            wanted = {"signature", "architecture", "parameters", "batch_size", "metrics"}
            wanted |= {"state_bytes", "train_batch_seconds", "valid_batch_seconds"} if batches else set()
            assert wanted <= set(event.profile), f"the profile lacks {sorted(wanted - set(event.profile))}"
        piloted = session.train(model, 1)
    assert_equal_states(piloted, plain, "a pilot changed the state")


def a_failing_model_fails_alone(subject: Subject) -> None:
    """A unit whose own code raises ends in `UnitFailed`; its worker goes on with other models."""
    if subject.failing_model is None:
        return
    model = subject.models[0]
    with opened(subject) as session:
        plain = session.train(model, 1)
    with opened(subject) as session:
        unit = session.visit(subject.failing_model, 0)
        session.engine.submit(Launch(unit, 0))
        event = session.hear()
        assert isinstance(event, UnitFailed), f"the unit of a failing model ended in {event}"
        assert (event.unit, event.worker) == (unit, 0), f"another unit failed: {event}"
        assert event.error, "a failure without a reason"
        after = session.train(model, 1)
    assert_equal_states(after, plain, "the failure of another model changed the state")


def a_killed_worker_loses_only_its_unit(subject: Subject) -> None:
    """A worker that dies says so with its unit, and joins again; the state is as before, the unit can be repeated."""
    model, workers = subject.models[0], subject.workers
    with opened(subject) as session:
        expected = session.train(model, 2)
    with opened(subject) as session:
        first = session.train(model, 1)
        unit = session.visit(model, 1)
        session.engine.submit(Launch(unit, workers - 1))
        session.engine.kill_worker(workers - 1, "because a test says so")
        heard = [session.hear()]
        while not isinstance(heard[-1], WorkerJoined):
            heard.append(session.hear())
        endings = [event for event in heard if isinstance(event, WorkerLost | UnitFinished) and event.unit == unit]
        assert len(endings) == 1, f"a unit on a killed worker ended in {heard}"
        causes = [event.cause for event in heard if isinstance(event, WorkerLost)]
        assert causes == ["because a test says so"], f"a killed worker was not reported lost, with the cause: {heard}"
        assert heard[-1].worker == workers - 1, f"another worker joined: {heard}"
        if isinstance(endings[0], WorkerLost):  # it may have been quicker than its killer
            assert session.state(model) == first[0], "a unit that has not happened changed the state"
            session.run(unit, workers - 1)
        assert_equal_states([session.state(model)], expected[1:], "a unit repeated after a kill gave another state")


def an_engine_can_be_closed_twice(subject: Subject) -> None:
    """`close` may be called again, and on an engine that was never opened."""
    with opened(subject) as session:
        session.engine.close()
        session.engine.close()
    subject.make_engine().close()


def an_engine_can_be_closed_while_units_run(subject: Subject) -> None:
    """`close` ends workers whatever they are doing, and the next engine is not disturbed."""
    with opened(subject) as session:
        for worker, model in enumerate(subject.models):
            session.engine.submit(Launch(session.visit(model, 0), worker))
    every_worker_joins_once(subject)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    every_worker_joins_once,
    a_wait_without_events_gives_none,
    every_unit_ends_once,
    training_changes_the_state,
    a_state_is_the_same_on_any_workers,
    models_do_not_disturb_each_other,
    validation_leaves_the_state_alone,
    values_are_those_of_all_visits,
    a_lost_state_is_restored,
    a_restored_state_can_be_measured,
    a_handle_keeps_its_state,
    a_pilot_leaves_no_trace,
    a_failing_model_fails_alone,
    a_killed_worker_loses_only_its_unit,
    an_engine_can_be_closed_twice,
    passes.a_pass_gives_each_model_what_it_has_alone,
    passes.a_pass_ends_in_one_event_for_each_unit,
    passes.a_model_that_fails_in_a_pass_fails_alone,
    passes.a_killed_worker_loses_its_whole_pass,
    members.an_introduced_model_trains_like_a_member,
    members.a_new_worker_knows_who_was_introduced,
    members.a_forgotten_model_is_restored,
    members.a_handle_outlives_that_its_model_is_forgotten,
    members.a_model_can_be_forgotten_while_it_trains,
    members.a_clone_goes_on_like_its_ancestor,
    members.a_clone_measures_what_it_starts_from,
    members.a_clone_that_has_trained_goes_on_from_its_own_state,
    members.a_clone_whose_worker_dies_starts_again,
    an_engine_can_be_closed_while_units_run,
)
