"""Checks of what a procedure was declared with, in one wording."""

import math
from typing import Any

from cerebro.control.procedure import Terms
from cerebro.errors import SpecError


def check_count(name: str, value: Any, least: int) -> None:
    """Check that `value` is a whole number of at least `least`.

    Raises:
        SpecError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{name}: {value!r} is not a whole number of at least {least}")


def check_fraction(name: str, value: Any, low: float, high: float) -> None:
    """Check that `value` is a number from `low` to `high`.

    Raises:
        SpecError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SpecError(f"{name}: {value!r} is not a number from {low} to {high}")


def check_rungs(name: str, min_epochs: Any, max_epochs: Any, eta: Any) -> None:
    """Check the three values that make a ladder of rungs.

    Raises:
        SpecError: one of them is not a whole number in its range.
    """
    check_count(f"{name}.min_epochs", min_epochs, least=1)
    check_count(f"{name}.max_epochs", max_epochs, least=1)
    check_count(f"{name}.eta", eta, least=2)
    if min_epochs > max_epochs:
        raise SpecError(
            f"{name}: min_epochs is {min_epochs} and max_epochs {max_epochs}; min_epochs must not be larger"
        )


def check_fits(name: str, epochs: int, terms: Terms) -> None:
    """Check that so many epochs are not more than the experiment has.

    Raises:
        SpecError: they are.
    """
    if epochs > terms.epochs:
        raise SpecError(
            f"{name}: {epochs} is more than the {terms.epochs} epochs of the experiment; lower it, or raise epochs"
        )


def cost(value: float | None, mode: str) -> float:
    """What is lower for a better value; infinite for a model that failed, and for a value that is not finite."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if mode == "max" else value


def value_of(cost: float, mode: str) -> float:
    """The value of which `cost` is the cost."""
    return 0.0 - cost if mode == "max" else cost
