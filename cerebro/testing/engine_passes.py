"""What every engine must do with launches of several models on one shard: fellows in one pass."""

from collections.abc import Sequence

from cerebro.messages import Event, Launch, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.testing.engine_session import Session, Subject, assert_equal_states, opened


def a_pass_gives_each_model_what_it_has_alone(subject: Subject) -> None:
    """Models that visit shards together have the states and the measures of models that visit them alone."""
    visits = subject.train_shards + 1
    with opened(subject) as session:
        alone = {model: session.train(model, visits) for model in subject.models}
        measures = [session.run(session.visit(model, 0, "valid")) for model in _measured(subject)]
    with opened(subject) as session:
        together: dict[str, list[bytes]] = {model: [] for model in subject.models}
        for number in range(visits):
            _finished(session, _pass(session, subject.models, number, worker=number % subject.workers))
            for model in subject.models:
                together[model].append(session.state(model))
        if measures:
            found = _finished(session, _pass(session, subject.models, 0, kind_valid=True))
            assert [event.partials for event in found] == [event.partials for event in measures], (
                f"together they measured {found}, alone {measures}"
            )
    for model in subject.models:
        assert_equal_states(together[model], alone[model], f"{model} went elsewhere in the company of others")


def a_pass_ends_in_one_event_for_each_unit(subject: Subject) -> None:
    """The units of a pass end in order and at one moment; all but the last say that there are more."""
    with opened(subject) as session:
        launch = _pass(session, subject.models, 0)
        events = _finished(session, launch)
        assert [event.more for event in events] == [True] * len(launch.fellows) + [False], f"{launch} ended in {events}"
        late = session.engine.wait(0.05)
        assert late is None, f"all units had ended, and then came {late}"


def a_model_that_fails_in_a_pass_fails_alone(subject: Subject) -> None:
    """The code of one model raises: the others of the pass end as if it had not been there."""
    if subject.failing_model is None:
        return
    model = subject.models[0]
    with opened(subject) as session:
        plain = session.train(model, 1)
    with opened(subject) as session:
        launch = _pass(session, (subject.failing_model, model), 0)
        session.engine.submit(launch)
        failed, finished = session.hear(), session.hear()
        assert isinstance(failed, UnitFailed), f"the unit of a failing model ended in {failed}"
        assert isinstance(finished, UnitFinished), f"the unit of its fellow ended in {finished}"
        assert (failed.unit, finished.unit) == launch.units, f"{launch} ended in {failed} and {finished}"
        assert_equal_states([session.state(model)], plain, "the failure of a fellow changed the state")


def a_killed_worker_loses_its_whole_pass(subject: Subject) -> None:
    """A worker that dies says so with all of its units, and none of them has happened."""
    worker = subject.workers - 1
    with opened(subject) as session:
        states = {model: session.train(model, 1)[0] for model in subject.models}
        launch = _pass(session, subject.models, 1, worker)
        session.engine.submit(launch)
        session.engine.kill_worker(worker, "because a test says so")
        heard: list[Event] = [session.hear()]
        while not isinstance(heard[-1], WorkerJoined):
            heard.append(session.hear())
        lost = next(event for event in heard if isinstance(event, WorkerLost))
        finished = [event.unit for event in heard if isinstance(event, UnitFinished)]
        if finished:  # it may have been quicker than its killer
            assert tuple(finished) == launch.units, f"half of {launch} happened: {heard}"
            return
        assert lost.units == launch.units, f"{launch} was lost as {lost}"
        for model, state in states.items():
            assert session.state(model) == state, "a unit that has not happened changed the state"


def _pass(session: Session, models: Sequence[str], number: int, worker: int = 0, *, kind_valid: bool = False) -> Launch:
    units = [session.visit(model, number, "valid" if kind_valid else "train") for model in models]
    return Launch(units[0], worker, tuple(units[1:]))


def _finished(session: Session, launch: Launch) -> list[UnitFinished]:
    """What a launch ended in, while nothing else runs."""
    session.engine.submit(launch)
    heard = [session.hear() for _ in launch.units]
    finished = [event for event in heard if isinstance(event, UnitFinished)]
    assert [event.unit for event in finished] == list(launch.units), f"{launch} ended in {heard}"
    return finished


def _measured(subject: Subject) -> Sequence[str]:
    return subject.models if subject.valid_shards else ()
