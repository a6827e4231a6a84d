"""What every procedure must do, as checks that a test of a procedure runs:

    SUBJECT = Subject(lambda: MyProcedure(space, models=20), epochs=9)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(SUBJECT)

A check raises AssertionError and says what the procedure did instead. No engine runs: `drive` answers what the
procedure asks for in an order that a schedule of numbers decides, and checks every decision against the contract of
`cerebro.control.procedure`. `check_schedule` takes any schedule, such as one drawn by Hypothesis.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cerebro.commands import Add, Clone, Resume, Stop, command_body, command_name
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.ids import canonical_json, model_id
from cerebro.streams import stream_bytes

Schedule = Sequence[int]
"""Numbers from 0 to 255: which of the models under way comes next, and how it ends. Where they end, all goes well."""
Mode = Literal["max", "min"]

STEPS_MAX = 20_000
"""A procedure that asks and is told so often has no end."""
LANES_MAX = 16
"""How many models are under way at once with a procedure that names no number of lanes."""


@dataclass(frozen=True)
class Subject:
    """A procedure to be checked."""

    make: Callable[[], Procedure]
    epochs: int = 9
    """The experiment's last epoch."""
    seed: int = 0
    schedules: int = 5
    """How many schedules each check of arbitrary orders goes through."""


@dataclass
class Model:
    """What the driver knows of one model."""

    config: Mapping[str, Any]
    epoch: int = 0
    """The last finished epoch."""
    values: dict[int, float | None] = field(default_factory=dict[int, float | None])
    """What was told, by epoch."""
    failed: bool = False
    censored: bool = False


@dataclass
class Drive:
    """One run of a procedure: its models, and all decisions in order."""

    procedure: Procedure
    terms: Terms
    models: dict[str, Model] = field(default_factory=dict[str, Model])
    decisions: list[Decision] = field(default_factory=list[Decision])
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    """The models under way, and the epochs that they were asked for."""
    sign: float = 1.0

    def ask(self) -> bool:
        """Let a free lane ask; whether it was given something."""
        fresh = model_id(len(self.models))
        decision = self.procedure.ask(fresh)
        if decision is None:
            return False
        self._take(decision, fresh)
        return True

    def tell(self, model: str, failed: bool = False) -> None:
        """Let a model come to the epoch that it was asked for, or fail."""
        state = self.models[model]
        epoch = self.waiting.pop(model)
        state.failed, state.epoch = failed, state.epoch if failed else epoch
        value = None if failed else self.sign * value_at(state.config, epoch)
        state.values[epoch] = value
        for decision in self.procedure.tell(Result(model, state.config, epoch, value)):
            assert isinstance(decision.command, Stop), f"tell gave {decision}; only ask begins something"
            self._take(decision, "")

    def tell_foreign(self, model: str, config: Mapping[str, Any]) -> None:
        """Tell the result of a model that a person added."""
        assert self.terms.epochs > 0
        value = self.sign * value_at(config, self.terms.epochs)
        given = self.procedure.tell(Result(model, config, self.terms.epochs, value))
        assert not [d for d in given if d.command == Stop(model)], f"{given} stops what a person has added"

    def censor(self, model: str) -> None:
        """Let a person stop a model."""
        state = self.models[model]
        state.censored = True
        self.waiting.pop(model, None)
        self.procedure.censor(model, state.epoch)

    def under_way(self) -> list[str]:
        """The models that the procedure waits for, in the order in which they were asked for."""
        return list(self.waiting)

    def _take(self, decision: Decision, fresh: str) -> None:
        json.dumps([command_body(decision.command), dict(decision.why)], allow_nan=False)
        match decision.command:
            case Add(config, until):
                self.models[fresh] = Model(dict(config))
                self._expect(fresh, until, decision)
            case Resume(model, until):
                self._check_resume(model, decision)
                self._expect(model, until, decision)
            case Clone():
                self._check_clone(decision.command, decision)
                parent = self.models[decision.command.model]
                at = parent.epoch if decision.command.at is None else decision.command.at
                epoch = at if decision.command.warm else 0
                self.models[fresh] = Model({**parent.config, **decision.command.changes}, epoch)
                self._expect(fresh, decision.command.until, decision)
            case Stop(model):
                self._check_stop(model, decision)
        self.decisions.append(decision)

    def _expect(self, model: str, until: int | None, decision: Decision) -> None:
        state, epoch = self.models[model], self.terms.epochs if until is None else until
        assert epoch <= self.terms.epochs, f"{decision} asks beyond the last epoch, {self.terms.epochs}"
        assert epoch > state.epoch, f"{decision} asks for an epoch that {model} has finished: it is at {state.epoch}"
        self.waiting[model] = epoch

    def _check_resume(self, model: str, decision: Decision) -> None:
        state = self.models.get(model)
        assert state is not None, f"{decision} resumes a model that there is not"
        assert model not in self.waiting, f"{decision} asks for a model that it already waits for"
        assert not state.failed, f"{decision} promotes a model that failed"
        assert not state.censored, f"{decision} takes a model from the person who stopped it"
        self._check_why(model, state.epoch, decision)

    def _check_clone(self, command: Clone, decision: Decision) -> None:
        parent = self.models.get(command.model)
        assert parent is not None, f"{decision} clones a model that there is not"
        assert self.procedure.forks, f"{decision} clones, and `forks` says that no states are to be kept for it"
        assert command.at is None or 1 <= command.at <= parent.epoch, f"{decision} starts at an epoch not yet finished"
        assert parent.epoch or not command.warm, f"{decision} takes weights that there are not"
        self._check_why(command.model, parent.epoch if command.at is None else command.at, decision)

    def _check_stop(self, model: str, decision: Decision) -> None:
        state = self.models.get(model)
        assert state is not None, f"{decision} stops a model that there is not"
        assert not state.failed, f"{decision} stops a model that failed, and cannot be resumed"
        assert model not in self.waiting, f"{decision} stops a model that it still waits for"

    def _check_why(self, model: str, epoch: int, decision: Decision) -> None:
        """A reason that names a value names the true one, and a model of rank n was one of at least n."""
        why, value = decision.why, self.models[model].values.get(epoch)
        if "value" in why:
            assert why["value"] == value, f"{decision} names a value of {why['value']}, and {model} was at {value}"
        if "rank" in why:
            assert 1 <= why["rank"] <= why["seen"], f"{decision} names a rank that there is not"
        if "rank" in why and "threshold" in why:
            over = why["value"] - why["threshold"] if self.terms.mode == "max" else why["threshold"] - why["value"]
            assert over >= 0, f"{decision} promotes a model that is worse than the threshold"


def drive(subject: Subject, schedule: Schedule = (), mode: Mode = "max", mirrored: bool = False) -> Drive:
    """Run a procedure to its end.

    schedule: two numbers for each model that ends: which one, and how (of 256, 232 and more: it fails, 208 and more:
    a person stops it, 200 and more: a person's own model ends as well).

    Raises:
        AssertionError: a decision is against the contract, or there is no end.
    """
    return drive_again(subject, subject.make(), schedule, mode, mirrored)


def drive_again(
    subject: Subject, procedure: Procedure, schedule: Schedule = (), mode: Mode = "max", mirrored: bool = False
) -> Drive:
    """As `drive`, with a procedure that may have run before."""
    terms = Terms(subject.seed, mode, subject.epochs)
    run, numbers = Drive(procedure, terms, sign=-1.0 if mirrored else 1.0), iter(schedule)
    procedure.begin(terms)
    for step in range(STEPS_MAX):
        lanes = LANES_MAX if procedure.lanes is None else procedure.lanes
        while len(run.under_way()) < lanes and run.ask():
            pass
        waiting = run.under_way()
        if not waiting:
            return run
        _end_one(run, waiting[next(numbers, 0) % len(waiting)], next(numbers, 0), step)
    raise AssertionError(f"after {STEPS_MAX:,} results there is no end")


def value_at(config: Mapping[str, Any], epoch: int) -> float:
    """A value between 0 and 1 that a model of this config has after an epoch: any, but always the same."""
    bits = stream_bytes(("value", canonical_json(config)), 2) + stream_bytes(
        ("value", canonical_json(config), epoch), 1
    )
    return int.from_bytes(bits, "big") / 2.0**24


def check_schedule(subject: Subject, schedule: Schedule) -> None:
    """Whatever comes in whatever order: every decision is within the contract, there is an end, and it is repeatable.

    Raises:
        AssertionError: what the procedure does and must not, or does not and must.
    """
    first, second = drive(subject, schedule), drive(subject, schedule)
    assert first.decisions == second.decisions, _difference(first.decisions, second.decisions)


def two_runs_are_equal(subject: Subject) -> None:
    """Two procedures with the same values and answers decide the same; so does one that begins again."""
    for schedule in _schedules(subject):
        procedure = subject.make()
        first = drive_again(subject, procedure, schedule).decisions
        again = drive_again(subject, procedure, schedule).decisions
        other = drive(subject, schedule).decisions
        assert first == again, f"begun again: {_difference(first, again)}"
        assert first == other, f"made again: {_difference(first, other)}"


def begin_forgets_half_a_run(subject: Subject) -> None:
    """A run that was broken off leaves no trace in the next one."""
    procedure = subject.make()
    procedure.begin(Terms(subject.seed + 1, "min", subject.epochs))
    for number in range(3):
        procedure.ask(model_id(number))
    found, wanted = drive_again(subject, procedure).decisions, drive(subject).decisions
    assert found == wanted, _difference(found, wanted)


def the_mode_decides_what_is_better(subject: Subject) -> None:
    """To maximise a value is to minimise its negative: the commands are the same."""
    for schedule in _schedules(subject):
        most = [decision.command for decision in drive(subject, schedule, "max").decisions]
        least = [decision.command for decision in drive(subject, schedule, "min", mirrored=True).decisions]
        assert most == least, f"max, and min of the negative: {_difference(most, least)}"


def it_begins_something_and_ends(subject: Subject) -> None:
    """Something is asked for, within the contract, and after finitely many answers nothing more."""
    run = drive(subject)
    assert run.models, "nothing was asked for"
    assert run.procedure.ask(model_id(len(run.models))) is None, "it had ended, and then asks for more"


def any_order_is_survived(subject: Subject) -> None:
    """Models may end in any order, fail, or be stopped by a person, and a person's own models may end as well."""
    for schedule in _schedules(subject):
        check_schedule(subject, schedule)


def failures_of_all_are_survived(subject: Subject) -> None:
    """When every model fails, the procedure ends."""
    drive(subject, [0, 255] * 2000)


def stops_of_all_are_survived(subject: Subject) -> None:
    """When a person stops every model, the procedure ends."""
    drive(subject, [0, 208] * 2000)


def not_a_number_is_a_failure(subject: Subject) -> None:
    """A model whose value is NaN or infinite is not asked for again."""
    for value in (float("nan"), float("inf"), float("-inf")):
        procedure, models = subject.make(), dict[str, Mapping[str, Any]]()
        procedure.begin(Terms(subject.seed, "max", subject.epochs))
        while len(models) < 100 and (decision := procedure.ask(fresh := model_id(len(models)))) is not None:
            command = decision.command
            assert isinstance(command, Add), f"{decision} goes on with a model whose value was {value}"
            models[fresh] = command.config
            epoch = subject.epochs if command.until is None else command.until
            stops = procedure.tell(Result(fresh, command.config, epoch, value))
            assert not stops, f"{stops} stops a model that failed"


def a_resume_by_a_person_is_survived(subject: Subject) -> None:
    """A person may take any paused model to the last epoch; its procedure does not ask for it again."""
    procedure, terms = subject.make(), Terms(subject.seed, "max", subject.epochs)
    procedure.begin(terms)
    run = Drive(procedure, terms)
    for number in range(STEPS_MAX):
        while len(run.under_way()) < (procedure.lanes or LANES_MAX) and run.ask():
            pass
        if not run.under_way():
            return
        model = run.under_way()[0]
        run.tell(model)
        state = run.models[model]
        if number % 3 == 0 and state.epoch < subject.epochs:
            state.epoch = subject.epochs
            procedure.tell(Result(model, state.config, state.epoch, value_at(state.config, state.epoch)))
    raise AssertionError(f"after {STEPS_MAX:,} results there is no end")


def it_describes_itself_in_json(subject: Subject) -> None:
    """Equal procedures have equal descriptions, which hold JSON, and which running does not change."""
    procedure = subject.make()
    before = canonical_json(procedure.describe())
    assert json.loads(before)["procedure"], "a description without a name"
    assert canonical_json(subject.make().describe()) == before, (
        "two that are made alike describe themselves differently"
    )
    drive_again(subject, procedure)
    assert canonical_json(procedure.describe()) == before, "running it changed its description"


def every_decision_says_why(subject: Subject) -> None:
    """No decision comes without a reason."""
    silent = [decision for decision in drive(subject).decisions if not decision.why]
    assert not silent, f"decisions without a reason: {silent[:3]}"


CHECKS: tuple[Callable[[Subject], None], ...] = (
    two_runs_are_equal,
    begin_forgets_half_a_run,
    the_mode_decides_what_is_better,
    it_begins_something_and_ends,
    any_order_is_survived,
    failures_of_all_are_survived,
    stops_of_all_are_survived,
    not_a_number_is_a_failure,
    a_resume_by_a_person_is_survived,
    it_describes_itself_in_json,
    every_decision_says_why,
)


def check_procedure(make: Callable[[], Procedure], epochs: int = 9) -> None:
    """Run all checks.

    Raises:
        AssertionError: what the procedure does and must not, or does not and must.
    """
    for check in CHECKS:
        check(Subject(make, epochs))


def command_lines(decisions: Sequence[Decision]) -> list[str]:
    """Decisions as short lines, such as `resume m003 until 9`."""
    return [_line(decision.command) for decision in decisions]


def _line(command: Add | Resume | Clone | Stop) -> str:
    until = "" if isinstance(command, Stop) or command.until is None else f" until {command.until}"
    return f"{command_name(command)} {'' if isinstance(command, Add) else command.model}".rstrip() + until


def _end_one(run: Drive, model: str, how: int, step: int) -> None:
    if how >= 232:
        run.tell(model, failed=True)
    elif how >= 208:
        run.censor(model)
    else:
        config = run.models[model].config
        run.tell(model)
        if how >= 200:
            run.tell_foreign(f"x{step}", config)


def _schedules(subject: Subject) -> Iterator[Schedule]:
    for number in range(subject.schedules):
        yield tuple(stream_bytes((subject.seed, "schedule", number), 400))


def _difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    for number, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return f"decision {number} is {first}, and then {second}"
    return f"{len(one)} decisions, and then {len(other)}"
