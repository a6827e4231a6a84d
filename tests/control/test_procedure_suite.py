"""The conformance suite finds what is wrong: each procedure here breaks one duty."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

import cerebro
from cerebro.commands import Add, Resume
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures import ASHA, PBT
from cerebro.testing import search_conformance
from cerebro.testing.procedure_conformance import Subject, check_procedure

SPACE = {"lr": cerebro.loguniform(1e-5, 1e-1)}


class Wrapped(Procedure):
    """ASHA, from which a broken procedure differs in one method."""

    def __init__(self) -> None:
        self.inner = ASHA(SPACE, models=12, max_epochs=9, lanes=4)

    @property
    def lanes(self) -> int | None:
        return self.inner.lanes

    def begin(self, terms: Terms) -> None:
        self.inner.begin(terms)

    def ask(self, fresh: str) -> Decision | None:
        return self.inner.ask(fresh)

    def tell(self, result: Result) -> Sequence[Decision]:
        return self.inner.tell(result)

    def censor(self, model: str, epoch: int) -> None:
        self.inner.censor(model, epoch)

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


class IgnoresTheMode(Wrapped):
    def begin(self, terms: Terms) -> None:
        self.inner.begin(replace(terms, mode="max"))


class TakesFailuresForGood(Wrapped):
    def tell(self, result: Result) -> Sequence[Decision]:
        return self.inner.tell(replace(result, value=2.0 if result.value is None else result.value))


class ForgetsWhoWasStopped(Wrapped):
    def censor(self, model: str, epoch: int) -> None:
        self.inner.tell(Result(model, {}, {0: 1, 1: 3, 3: 9}[epoch], 2.0))


class NeverEnds(Wrapped):
    def ask(self, fresh: str) -> Decision | None:
        return Decision(Add({"lr": 0.1}, until=1), {"source": "nowhere"})


class AsksBeyondTheLastEpoch(Wrapped):
    def ask(self, fresh: str) -> Decision | None:
        decision = self.inner.ask(fresh)
        if decision is None or not isinstance(decision.command, Resume):
            return decision
        return replace(decision, command=replace(decision.command, until=10))


class RollsDice(Wrapped):
    def ask(self, fresh: str) -> Decision | None:
        decision = self.inner.ask(fresh)
        return decision and replace(decision, why={**decision.why, "luck": random.random()})


class SaysNothing(Wrapped):
    def ask(self, fresh: str) -> Decision | None:
        decision = self.inner.ask(fresh)
        return decision and replace(decision, why={})


class BoastsOfAnotherValue(Wrapped):
    def ask(self, fresh: str) -> Decision | None:
        decision = self.inner.ask(fresh)
        return decision and replace(decision, why={**decision.why, "value": 1.5})


class RemembersTheLastRun(Wrapped):
    def begin(self, terms: Terms) -> None:
        if not hasattr(self, "begun"):
            self.inner.begin(terms)
        self.begun = True


class HidesThatItClones(PBT):
    forks = False


def test_the_suite_accepts_what_is_right():
    check_procedure(Wrapped)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (IgnoresTheMode, "promotes a model that is worse than the threshold"),
        (TakesFailuresForGood, "promotes a model that failed"),
        (ForgetsWhoWasStopped, "takes a model from the person who stopped it"),
        (NeverEnds, "there is no end"),
        (AsksBeyondTheLastEpoch, "asks beyond the last epoch"),
        (RollsDice, "begun again: decision 0"),
        (SaysNothing, "decisions without a reason"),
        (BoastsOfAnotherValue, "names a value of 1.5"),
        (RemembersTheLastRun, "begun again"),
    ],
)
def test_the_suite_names_what_is_wrong(broken: type[Procedure], complaint: str):
    with pytest.raises(AssertionError, match=complaint):
        check_procedure(broken)


def test_the_suite_names_a_procedure_that_clones_and_does_not_say_so():
    with pytest.raises(AssertionError, match="clones, and `forks` says"):
        check_procedure(lambda: HidesThatItClones(SPACE, population=4, interval=3))


@pytest.mark.parametrize(
    ("broken", "check", "complaint"),
    [
        (IgnoresTheMode, "the_mode_of_a_search_decides_what_is_better", "max, and min of the negative, differ"),
        (AsksBeyondTheLastEpoch, "no_model_trains_beyond_the_last_epoch", "the last epoch is 9"),
        (RollsDice, "any_number_of_workers_decides_the_same", "1 worker and 2: decision 0"),
        (RollsDice, "costs_decide_nothing", "equal and uneven costs: decision 0"),
        (RollsDice, "deaths_of_workers_decide_nothing", "workers that live and workers that die: decision 0"),
    ],
)
def test_a_search_names_what_is_wrong(broken: type[Procedure], check: str, complaint: str):
    with pytest.raises(AssertionError, match=complaint):
        next(each for each in search_conformance.CHECKS if each.__name__ == check)(Subject(broken))


@pytest.mark.parametrize("check", ["any_number_of_workers_decides_the_same", "costs_decide_nothing"])
def test_without_virtual_time_the_checks_of_a_search_fail(check: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_conformance, "SETTING", replace(search_conformance.SETTING, deterministic=False))
    with pytest.raises(AssertionError, match="decision"):
        next(each for each in search_conformance.CHECKS if each.__name__ == check)(Subject(Wrapped))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda run: run.units.pop(), "visits by epoch"),
        (lambda run: run.units.append(run.units[0]), "a unit has ended well twice"),
        (lambda run: run.epochs.update(m001=run.epochs["m001"] + 1), "visits by epoch"),
        (lambda run: run.rulings.clear(), "its last ruling is None"),
    ],
)
def test_what_is_lost_in_a_search_is_noticed(spoil: Callable[[Any], object], complaint: str):
    run = search_conformance.search(Subject(Wrapped))
    search_conformance.check_accounts(run, 9)
    spoil(run)
    with pytest.raises(AssertionError, match=complaint):
        search_conformance.check_accounts(run, 9)
