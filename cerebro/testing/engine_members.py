"""What every engine must do with models that come and go: those introduced late, forgotten ones, and clones."""

from dataclasses import replace
from typing import Literal

from cerebro.messages import Launch, Unit, UnitFinished, WorkerJoined
from cerebro.plan.program import Ancestor, Member
from cerebro.testing.engine_session import Session, Subject, assert_equal_states, opened

_CLONE = "clone"


def an_introduced_model_trains_like_a_member(subject: Subject) -> None:
    """A model that the engine is told of when it is open has the states of one that it knew from the beginning."""
    model = subject.models[0]
    with opened(subject) as session:
        known = session.train(model, 2)
    with opened(_without(subject, model)) as session:
        session.engine.introduce(model, subject.program.members[model])
        introduced = session.train(model, 2, range(subject.workers))
    assert_equal_states(introduced, known, "a model that was introduced went to another state")


def a_new_worker_knows_who_was_introduced(subject: Subject) -> None:
    """A worker that replaces a lost one trains models that were introduced to the lost one."""
    model, worker = subject.models[0], subject.workers - 1
    with opened(subject) as session:
        known = session.train(model, 2)
    with opened(_without(subject, model)) as session:
        session.engine.introduce(model, subject.program.members[model])
        introduced = session.train(model, 1, (worker,))
        _replace_worker(session, worker)
        introduced += session.train(model, 1, (worker,), first=1)
    assert_equal_states(introduced, known, "a model that was introduced to a lost worker went to another state")


def a_forgotten_model_is_restored(subject: Subject) -> None:
    """For a model that was forgotten the engine asks `restore` again, and goes on from what it gets."""
    model, durable = subject.models[0], dict[str, bytes]()
    with opened(subject) as session:
        plain = session.train(model, 2)
    with opened(subject, durable.get) as session:
        states = session.train(model, 1)
        durable[model] = states[0]
        session.engine.forget(model)
        session.engine.forget(model)
        session.asked.clear()
        states += session.train(model, 1, first=1)
        assert session.asked == [model], f"of a forgotten model restore was asked for {session.asked}"
    assert_equal_states(states, plain, "a forgotten model went on to another state")


def a_handle_outlives_that_its_model_is_forgotten(subject: Subject) -> None:
    """What a handle shows stays, although its model was forgotten and others train in its place."""
    model, other = subject.models
    with opened(subject) as session:
        state = session.train(model, 1)[0]
        handle = session.engine.state(model)
        session.engine.forget(model)
        session.train(other, subject.train_shards)
        kept = bytes(handle.view())
        handle.release()
    assert kept == state, "a state changed under its handle when its model was forgotten"


def a_model_can_be_forgotten_while_it_trains(subject: Subject) -> None:
    """A unit that runs ends as ever, and others do not write over what it started from."""
    (model, other), durable = subject.models, dict[str, bytes]()
    with opened(subject) as session:
        plain = session.train(model, 2)
    with opened(subject, durable.get) as session:
        durable[model] = session.train(model, 1)[0]
        session.engine.submit(Launch(session.visit(model, 1), 0))
        session.engine.forget(model)
        session.engine.submit(Launch(session.visit(other, 0), 1))
        for event in (session.hear(), session.hear()):
            assert isinstance(event, UnitFinished), f"a unit whose model was forgotten ended in {event}"
        after = session.state(model)
    assert_equal_states([after], plain[1:], "a model that was forgotten in a unit went on to another state")


def a_clone_goes_on_like_its_ancestor(subject: Subject) -> None:
    """A clone that changes nothing and keeps the optimizer has the states that its ancestor comes to."""
    states = _ancestral_states(subject, 3)
    for workers in ((0,), range(subject.workers)):
        with opened(subject, {_CLONE: states[0]}.get) as session:
            session.engine.introduce(_CLONE, _clone(subject, 1))
            found = session.train(_CLONE, 2, workers, first=1)
            assert _CLONE in session.asked, "restore was not asked for the state that a clone starts from"
        assert_equal_states(found, states[1:], "a clone that changes nothing went to another state than its ancestor")


def a_clone_measures_what_it_starts_from(subject: Subject) -> None:
    """The valid units that a clone has left of its ancestor's epoch measure the ancestor, and change nothing."""
    if not subject.valid_shards:
        return
    model, visits = subject.models[0], subject.train_shards
    with opened(subject) as session:
        states = session.train(model, visits)
        expected = session.run(session.visit(model, 0, "valid")).partials
        states += session.train(model, 1, first=visits)
    with opened(subject, {_CLONE: states[visits - 1]}.get) as session:
        session.engine.introduce(_CLONE, _clone(subject, visits, measuring=True))
        found = [session.run(session.visit(_CLONE, 0, "valid"), w).partials for w in range(subject.workers)]
        assert all(partials == expected for partials in found), f"its ancestor measured {expected}, a clone {found}"
        trained = session.train(_CLONE, 1, first=visits)
    assert_equal_states(trained, states[visits:], "a clone that was measured went to another state")


def a_clone_that_has_trained_goes_on_from_its_own_state(subject: Subject) -> None:
    """After its first train unit a clone is restored as any other model, whatever its ancestor was."""
    states = _ancestral_states(subject, 1)
    clone = _clone(subject, 1, optimizer="reset")
    with opened(subject, {_CLONE: states[0]}.get) as session:
        session.engine.introduce(_CLONE, clone)
        first, second = session.train(_CLONE, 2, first=1)
    with opened(subject, {_CLONE: first}.get) as session:
        session.engine.introduce(_CLONE, clone)
        found = session.train(_CLONE, 1, first=2)
    assert_equal_states(found, [second], "a clone that was restored went on to another state")


def a_clone_whose_worker_dies_starts_again(subject: Subject) -> None:
    """The first unit of a clone can be repeated after its worker was lost, and gives the same state."""
    states, worker = _ancestral_states(subject, 2), subject.workers - 1
    with opened(subject, {_CLONE: states[0]}.get) as session:
        session.engine.introduce(_CLONE, _clone(subject, 1))
        unit = session.visit(_CLONE, 1)
        session.engine.submit(Launch(unit, worker))
        if not _replace_worker(session, worker, unit):  # it may have been quicker than its killer
            session.run(unit, worker)
        found = session.state(_CLONE)
    assert_equal_states([found], states[1:], "a clone whose first worker was killed went to another state")


def _without(subject: Subject, model: str) -> Subject:
    """The same, whose program does not know one of the models."""
    members = {name: member for name, member in subject.program.members.items() if name != model}
    return replace(subject, program=replace(subject.program, members=members))


def _ancestral_states(subject: Subject, visits: int) -> list[bytes]:
    with opened(subject) as session:
        return session.train(subject.models[0], visits)


def _clone(
    subject: Subject, visits: int, optimizer: Literal["keep", "reset"] = "keep", measuring: bool = False
) -> Member:
    """A clone of the first model after some train visits; with `measuring`, before the epoch's valid ones."""
    epochs, position = divmod(visits, subject.train_shards)
    done = subject.train_shards if measuring else position
    epoch = epochs if measuring else epochs + 1
    ancestor = Ancestor(subject.models[0], "", optimizer, epoch, tuple(range(done)), measuring=measuring)
    return replace(subject.program.members[subject.models[0]], ancestor=ancestor)


def _replace_worker(session: Session, worker: int, unit: Unit | None = None) -> bool:
    """Kill a worker and wait for the next of its number; gives whether `unit` had ended before."""
    session.engine.kill_worker(worker)
    finished = False
    while not isinstance(event := session.hear(), WorkerJoined):
        finished |= isinstance(event, UnitFinished) and event.unit == unit
    return finished
