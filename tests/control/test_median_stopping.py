"""The median rule, and where it does not apply."""

import pytest

import cerebro
from cerebro.commands import Resume, Stop
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures import MedianStopping, Random

SPACE = {"lr": cerebro.loguniform(1e-4, 1e-1)}


def curves(procedure: Procedure, values: dict[str, list[float]], mode: str = "max") -> list[Decision]:
    """Each model in turn, along its values, as far as it is resumed."""
    procedure.begin(Terms(0, mode, 3))  # type: ignore[arg-type]
    stops = list[Decision]()
    for model, given in values.items():
        for epoch, value in enumerate(given, 1):
            decision = procedure.ask(model)
            assert decision is not None
            assert epoch == 1 or decision.command == Resume(model, until=epoch)
            stops += (told := procedure.tell(Result(model, {}, epoch, value)))
            if told:
                break
    return stops


OTHERS = {f"m{n:03d}": [0.1 * n, 0.2 * n, 0.3 * n] for n in range(1, 5)}
"""Running averages at epoch 1: 0.1 to 0.4, median 0.25; at epoch 2: 0.15 to 0.6, median 0.375."""


def test_a_model_whose_best_is_below_the_median_of_averages_is_stopped():
    stops = curves(MedianStopping(SPACE, models=9), {**OTHERS, "m005": [0.3, 0.36]})
    assert [stop.command for stop in stops] == [Stop("m005")]
    why = stops[0].why
    assert (why["epochs"], why["seen"], why["value"], why["best"]) == (2, 4, 0.36, 0.36)
    assert why["threshold"] == pytest.approx(0.375)


def test_the_best_so_far_counts_not_the_last():
    assert curves(MedianStopping(SPACE, models=9), {**OTHERS, "m005": [0.9, 0.0, 0.0]}) == []


def test_when_minimising_a_model_above_the_median_is_stopped():
    stops = curves(MedianStopping(SPACE, models=9), {**OTHERS, "m005": [0.26]}, "min")
    assert [stop.command for stop in stops] == [Stop("m005")]


def test_nothing_is_stopped_before_min_epochs():
    stops = curves(MedianStopping(SPACE, models=9, min_epochs=2), {**OTHERS, "m005": [0.0, 0.0]})
    assert [stop.why["epochs"] for stop in stops] == [2]


def test_nothing_is_stopped_with_too_few_others():
    assert curves(MedianStopping(SPACE, models=9, startup=5), {**OTHERS, "m005": [0.0, 0.0, 0.0]}) == []


def test_models_are_given_once():
    with pytest.raises(cerebro.SpecError, match=r"MedianStopping\.models: 3 and Random"):
        MedianStopping(Random(SPACE, models=3), models=3)
    with pytest.raises(cerebro.SpecError, match=r"MedianStopping\.models: None is not a whole number"):
        MedianStopping(SPACE)
