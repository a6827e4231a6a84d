"""What an experiment may cost, and what it has cost: two frozen values that are compared after every unit."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from cerebro.errors import SpecError
from cerebro.quantities import count_text, dollars_text, parse_span, span_text, spent_text

HOUR_SECONDS = 3600.0
_EXAMPLE = "Budget(time='2h', epochs=40)"
_TIMES = "seconds, or a text such as '90s', '15m', '2h', '1d' or '1h30m'"
_ROUNDING = 1e-9
"""What sums of model-epochs, which are fractions, may be off by."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What an experiment has cost so far, over all its runs or in one of them."""

    seconds: float = 0.0
    """Wall time."""
    worker_seconds: float = 0.0
    """Workers times wall time: a worker that waits is paid for too."""
    unit_seconds: float = 0.0
    """Those of them in which a worker ran a unit that ended well."""
    epochs: float = 0.0
    """Model-epochs: two models that train for three epochs spend six."""
    trained: frozenset[str] = frozenset()
    """The models that any unit was spent on."""
    kwh: float | None = None
    """None: nobody knows."""
    kwh_is_estimate: bool = False
    """Whether any of the energy was reckoned instead of read from a counter."""
    dollars: float | None = None
    """None: no price is known."""

    @property
    def models(self) -> int:
        """How many models any unit was spent on."""
        return len(self.trained)

    def plus(self, other: "Spent") -> "Spent":
        """Both together; what one of them does not know of energy or money counts as nothing."""
        return Spent(
            seconds=self.seconds + other.seconds,
            worker_seconds=self.worker_seconds + other.worker_seconds,
            unit_seconds=self.unit_seconds + other.unit_seconds,
            epochs=self.epochs + other.epochs,
            trained=self.trained | other.trained,
            kwh=_sum_known(self.kwh, other.kwh),
            kwh_is_estimate=self.kwh_is_estimate or other.kwh_is_estimate,
            dollars=_sum_known(self.dollars, other.dollars),
        )

    def describe(self) -> dict[str, Any]:
        """The amounts as JSON."""
        return {
            "seconds": self.seconds,
            "worker_seconds": self.worker_seconds,
            "unit_seconds": self.unit_seconds,
            "epochs": self.epochs,
            "models": self.models,
            "kwh": self.kwh,
            "kwh_is_estimate": self.kwh_is_estimate,
            "dollars": self.dollars,
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """What an experiment may cost: the first limit that is reached ends the run, and a larger budget resumes it.

    Limits hold for all runs of an experiment together. They are looked at between units: what runs may end, so a
    limit is exceeded by no more than one unit for each worker.

    Attributes:
        time: wall time, in seconds or as `"90s"`, `"15m"`, `"2h"`, `"1d"`, `"1h30m"`; kept in seconds.
        epochs: model-epochs: two models that train for three epochs spend six.
        models: how many models may be begun.
        dollars: money, at `price`.
        kwh: energy, from counters where they can be read, otherwise estimated.
        price: dollars for an hour of one worker; alone it limits nothing, and lets costs be shown in dollars.

    Raises:
        SpecError: naming the field.
    """

    time: float | str | None = None
    epochs: float | None = None
    models: int | None = None
    dollars: float | None = None
    kwh: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        if not self.describe():
            raise SpecError(f"Budget: nothing is limited; give at least one of {', '.join(_NAMES)}, as {_EXAMPLE}")
        if self.time is not None:
            object.__setattr__(self, "time", _checked_time(self.time))
        for name in ("epochs", "dollars", "kwh", "price"):
            _check_amount(name, getattr(self, name))
        _check_models(self.models)
        if self.dollars is not None and self.price is None:
            raise SpecError(
                f"Budget.dollars: {self.dollars!r} needs a price; add what an hour of one worker costs in dollars, "
                "as Budget(dollars=5, price=0.40), or limit time= instead"
            )

    @property
    def seconds(self) -> float | None:
        """The limit of the wall time; None: there is none."""
        return None if self.time is None else float(self.time)

    def describe(self) -> dict[str, Any]:
        """What was given, as JSON; `Budget(**budget.describe())` is the same budget."""
        given = {name: getattr(self, name) for name in _NAMES}
        return {name: value for name, value in given.items() if value is not None}

    def over(self, spent: Spent) -> str | None:
        """The first limit that is reached, with what was spent of it: `time: 2h 0m of 2h`; None: there is some left.

        `models` is not looked at: it limits what is begun, and does not end a run.
        """
        dollars = self.dollars_of(spent.worker_seconds) if spent.dollars is None else spent.dollars
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"time: {spent_text(spent.seconds)} of {span_text(self.seconds)}"
        if self.epochs is not None and spent.epochs >= self.epochs - _ROUNDING:
            return f"epochs: {round(spent.epochs, 2):g} of {self.epochs:g}"
        if self.dollars is not None and dollars is not None and dollars >= self.dollars:
            return f"dollars: {dollars_text(dollars)} of ${self.dollars:g}"
        if self.kwh is not None and spent.kwh is not None and spent.kwh >= self.kwh:
            estimated = " (estimated)" if spent.kwh_is_estimate else ""
            return f"kwh: {spent.kwh:.3g} of {self.kwh:g}{estimated}"
        return None

    def progress(self, spent: Spent) -> str:
        """How much is spent of each limit: `12 of 60 min, 20 % · 9 of 40 epochs, 22 %`; nothing where there is none."""
        dollars = self.dollars_of(spent.worker_seconds) if spent.dollars is None else spent.dollars
        parts = list[str]()
        if self.seconds is not None:
            parts.append(_of_time(spent.seconds, self.seconds))
        if self.epochs is not None:
            parts.append(_of(spent.epochs, self.epochs, f"{spent.epochs:.4g} of {self.epochs:g} epochs"))
        if self.models is not None:
            parts.append(_of(spent.models, self.models, f"{spent.models} of {count_text(self.models, 'model')}"))
        if self.dollars is not None and dollars is not None:
            parts.append(_of(dollars, self.dollars, f"{dollars_text(dollars)} of ${self.dollars:g}"))
        if self.kwh is not None and spent.kwh is not None:
            parts.append(_of(spent.kwh, self.kwh, f"{spent.kwh:.2g} of {self.kwh:g} kWh"))
        return " · ".join(parts)

    def dollars_of(self, worker_seconds: float) -> float | None:
        """What so many seconds of workers cost; None without a price."""
        return None if self.price is None else worker_seconds / HOUR_SECONDS * self.price

    def __str__(self) -> str:
        """`2h, 40 epochs`."""
        texts = [_TEXTS[name](value) for name, value in self.describe().items() if name != "price"]
        return ", ".join(texts) or "without limit"


def parse_budget(text: str) -> Budget:
    """The budget that is written as `time=2h,epochs=40`.

    Raises:
        SpecError: it is not written so, or a value is none.
    """
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in _NAMES:
            raise SpecError(f"budget: {part.strip()!r} is not one of {_FORMS}; give for example time=2h,epochs=40")
        if name in values:
            raise SpecError(f"budget: {name} is given twice in {text!r}; give it once")
        values[name] = value if name == "time" else _number(name, value)
    return Budget(**values)


def as_budget(budget: Budget | str | None) -> Budget | None:
    """The budget itself, or the one that a text such as `time=2h` gives.

    Raises:
        SpecError: it is neither.
    """
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        return parse_budget(budget)
    raise SpecError(f"budget: {budget!r} is not a budget; give for example {_EXAMPLE} or 'time=2h,epochs=40'")


def _of_time(spent: float, limit: float) -> str:
    """Both in the unit in which the limit is a number that people grasp."""
    unit, seconds, digits = next(
        each for each in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)) if limit / each[1] <= 120 or each[0] == "h"
    )
    return _of(spent, limit, f"{round(spent / seconds, digits):g} of {round(limit / seconds, 1):g} {unit}")


def _of(spent: float, limit: float, text: str) -> str:
    return f"{text}, {math.floor(100 * spent / limit + _ROUNDING)} %"


def _sum_known(one: float | None, other: float | None) -> float | None:
    known = [amount for amount in (one, other) if amount is not None]
    return sum(known) if known else None


def _checked_time(value: Any) -> float:
    seconds = parse_span(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise SpecError(f"Budget.time: {value!r} is not a time above 0; give {_TIMES}")
    return float(seconds)


def _check_amount(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise SpecError(f"Budget.{name}: {value!r} is not a number above 0; leave it out for no limit")


def _check_models(value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise SpecError(f"Budget.models: {value!r} is not a whole number of at least 1; leave it out for no limit")


def _number(name: str, text: str) -> float | int:
    """The number that was written; what `Budget` then finds wrong with it, it says itself."""
    try:
        return int(text) if text.removeprefix("-").isdecimal() else float(text)
    except ValueError:
        raise SpecError(f"budget: {name}={text} is not a number; give for example {name}=40") from None


_NAMES = tuple(field.name for field in fields(Budget))
_FORMS = ", ".join(f"{name}=" for name in _NAMES)
_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "time": span_text,
    "epochs": lambda value: f"{value:g} {'epoch' if value == 1 else 'epochs'}",
    "models": lambda value: f"{value} {'model' if value == 1 else 'models'}",
    "dollars": lambda value: f"${value:g}",
    "kwh": lambda value: f"{value:g} kWh",
}
