"""Budgets: what can be declared, and when a limit is reached."""

import json
from typing import Any

import pytest

from cerebro.errors import SpecError
from cerebro.quantities import dollars_text, parse_span, span_text, spent_text
from cerebro.spec.budget import Budget, Spent, as_budget, parse_budget


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(90, 90), (0.5, 0.5), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), (" 1H 30M ", 5400)],
)
def test_a_time_is_seconds_or_a_text_with_units(written: Any, seconds: float):
    assert Budget(time=written).seconds == seconds
    assert Budget(time=written) == Budget(time=seconds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Budget: nothing is limited; give at least one of time, epochs, models, dollars, kwh, price"),
        ({"time": "soon"}, r"Budget.time: 'soon' is not a time above 0; give seconds, or a text such as '90s'"),
        ({"time": "30m1h"}, "Budget.time: '30m1h'"),
        ({"time": 0}, "Budget.time: 0 is not a time above 0"),
        ({"time": True}, "Budget.time: True"),
        ({"time": float("inf")}, "Budget.time: inf"),
        ({"epochs": "40"}, "Budget.epochs: '40' is not a number above 0; leave it out for no limit"),
        ({"epochs": float("nan")}, "Budget.epochs: nan"),
        ({"kwh": -1}, "Budget.kwh: -1"),
        ({"price": 0}, "Budget.price: 0"),
        ({"models": 1.5}, "Budget.models: 1.5 is not a whole number of at least 1"),
        ({"models": 0}, "Budget.models: 0 is not a whole number of at least 1"),
        ({"dollars": 5}, r"Budget.dollars: 5 needs a price; add what an hour of one worker costs"),
    ],
)
def test_a_budget_that_is_none_is_refused_by_the_name_of_its_field(given: dict[str, Any], message: str):
    with pytest.raises(SpecError, match=message):
        Budget(**given)


@pytest.mark.parametrize(
    ("budget", "spent", "text"),
    [
        (Budget(time="60m"), Spent(seconds=720), "12 of 60 min, 20 %"),
        (Budget(time=90), Spent(seconds=89.9), "90 of 90 s, 99 %"),
        (Budget(time="1d"), Spent(seconds=5400), "1.5 of 24 h, 6 %"),
        (Budget(epochs=40), Spent(epochs=9.2), "9.2 of 40 epochs, 23 %"),
        (Budget(models=1), Spent(trained=frozenset({"m001"})), "1 of 1 model, 100 %"),
        (Budget(dollars=5, price=0.4), Spent(worker_seconds=3600), "$0.40 of $5, 8 %"),
        (Budget(kwh=0.5), Spent(kwh=0.0123), "0.012 of 0.5 kWh, 2 %"),
        (Budget(kwh=0.5), Spent(), ""),
        (Budget(price=0.4), Spent(seconds=60), ""),
        (Budget(time="2m", epochs=4), Spent(seconds=6, epochs=1), "6 of 120 s, 5 % · 1 of 4 epochs, 25 %"),
    ],
)
def test_what_is_spent_is_told_beside_each_limit(budget: Budget, spent: Spent, text: str):
    assert budget.progress(spent) == text


def test_a_budget_can_be_written_on_one_line():
    assert parse_budget("time=2h, epochs=40") == Budget(time=7200, epochs=40)
    assert parse_budget("dollars=5,price=0.4,kwh=1.5,models=8") == Budget(dollars=5, price=0.4, kwh=1.5, models=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "budget: '' is not one of time=, epochs=, models=, dollars=, kwh=, price=; give for example time=2h"),
        ("2h", "budget: '2h' is not one of"),
        ("hours=2", "budget: 'hours=2' is not one of"),
        ("epochs=many", "budget: epochs=many is not a number; give for example epochs=40"),
        ("time=2h,time=3h", "budget: time is given twice"),
        ("models=1.5", "Budget.models: 1.5"),
        ("dollars=3", "Budget.dollars: 3 needs a price"),
    ],
)
def test_a_line_that_is_no_budget_is_refused(text: str, message: str):
    with pytest.raises(SpecError, match=message):
        parse_budget(text)


def test_a_budget_is_given_as_a_value_or_as_a_text():
    budget = Budget(epochs=40)
    assert as_budget(None) is None
    assert as_budget(budget) is budget
    assert as_budget("epochs=40") == budget
    with pytest.raises(SpecError, match="budget: 7200 is not a budget"):
        as_budget(7200)  # type: ignore[arg-type]


def test_a_budget_is_described_by_what_was_given_and_comes_back():
    budget = Budget(time="1h30m", models=8, price=0.5)
    assert json.loads(json.dumps(budget.describe())) == {"time": 5400.0, "models": 8, "price": 0.5}
    assert Budget(**budget.describe()) == budget


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(time=7200), "2h"),
        (Budget(time=90, epochs=40), "1m30s, 40 epochs"),
        (Budget(epochs=1, models=1), "1 epoch, 1 model"),
        (Budget(dollars=2.5, price=1, kwh=0.5), "$2.5, 0.5 kWh"),
        (Budget(price=1), "without limit"),
    ],
)
def test_a_budget_prints_as_its_limits(budget: Budget, text: str):
    assert str(budget) == text


@pytest.mark.parametrize(
    ("budget", "spent", "reached"),
    [
        (Budget(time="2h"), Spent(seconds=7199), None),
        (Budget(time="2h"), Spent(seconds=7200), "time: 2h 0m of 2h"),
        (Budget(epochs=40), Spent(epochs=39.75), None),
        (Budget(epochs=40), Spent(epochs=40.25), "epochs: 40.25 of 40"),
        (Budget(epochs=3), Spent(epochs=3 - 1e-12), "epochs: 3 of 3"),
        (Budget(dollars=5, price=2), Spent(dollars=4.99), None),
        (Budget(dollars=5, price=2), Spent(dollars=5.02), "dollars: $5.02 of $5"),
        (Budget(dollars=5, price=2), Spent(worker_seconds=9000), "dollars: $5.00 of $5"),
        (Budget(kwh=0.5), Spent(kwh=None), None),
        (Budget(kwh=0.5), Spent(kwh=0.511), "kwh: 0.511 of 0.5"),
        (Budget(kwh=0.5), Spent(kwh=0.5, kwh_is_estimate=True), "kwh: 0.5 of 0.5 (estimated)"),
        (Budget(price=2), Spent(seconds=1e9, worker_seconds=1e9, epochs=1e9, kwh=1e9, dollars=1e9), None),
        (Budget(models=1), Spent(trained=frozenset({"m001", "m002"})), None),
        (Budget(epochs=1, time=1), Spent(seconds=1, epochs=1), "time: 1s of 1s"),
    ],
)
def test_the_first_limit_that_is_reached_is_named_with_what_was_spent(
    budget: Budget, spent: Spent, reached: str | None
):
    assert budget.over(spent) == reached


def test_what_two_runs_spent_adds_up_and_a_model_of_both_counts_once():
    first = Spent(10, 20, 15, 1.5, frozenset({"m001", "m002"}), 0.1, False, 1.0)
    second = Spent(1, 2, 1, 0.5, frozenset({"m002", "m003"}), None, False, None)
    both = first.plus(second)
    assert both == Spent(11, 22, 16, 2.0, frozenset({"m001", "m002", "m003"}), 0.1, False, 1.0)
    assert both.models == 3
    assert json.loads(json.dumps(both.describe()))["models"] == 3
    assert Spent().plus(Spent()) == Spent()


@pytest.mark.parametrize("text", ["", " ", "h", "-1h", "1x", "2h2h", "1e3", "1h 30"])
def test_what_is_no_span_is_not_read_as_one(text: str):
    assert parse_span(text) is None


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 59.25, 60, 90, 3600, 5400, 86400, 90061, 1234567])
def test_a_span_that_is_written_is_read_again(seconds: float):
    assert parse_span(span_text(seconds)) == seconds


def test_spent_time_and_dollars_are_shown_in_two_figures_that_say_something():
    assert [spent_text(seconds) for seconds in (0, 0.123, 9.9, 12.3, 59.7, 2292, 7200, 90000)] == [
        "0s", "0.12s", "9.9s", "12s", "1m 0s", "38m 12s", "2h 0m", "1d 1h",
    ]  # fmt: skip
    assert [dollars_text(dollars) for dollars in (0, 0.00001, 0.0123, 0.096, 0.5, 1234.5)] == [
        "$0.00", "under $0.0001", "$0.012", "$0.10", "$0.50", "$1,234.50",
    ]  # fmt: skip
