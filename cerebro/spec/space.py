"""Search spaces: what a config may be.

A space is a plain mapping from names to values. A value is a list (one of these), one of `choice`, `uniform`,
`loguniform`, `randint`, a nested mapping (a sub-space), or a constant. A mapping inside a `choice` or a list is a
conditional sub-space: its dimensions exist only where it was chosen. A value that changes by epoch is made by
`cerebro.spec.stages`. Optuna's distributions are taken as well.

`cerebro.spec.sampling` draws configs from spaces.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cerebro.errors import SpecError
from cerebro.spec.stages import check_staged, is_staged

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `options`, each as likely as the others."""

    options: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Uniform:
    """A float in [low, high)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A float in [low, high), uniform in its logarithm."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RandInt:
    """One of `range(low, high, step)`; with `log` about uniform in its logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    @property
    def last(self) -> int:
        """The largest value."""
        return range(self.low, self.high, self.step)[-1]


@dataclass(frozen=True, slots=True)
class Steps:
    """One of the floats low, low + step, ...: `count` of them, each as likely as the others."""

    low: float
    step: float
    count: int

    def value(self, index: int) -> float:
        """The value at `index`, from 0."""
        return self.low + self.step * index


Dimension = Choice | Uniform | LogUniform | RandInt | Steps
Numeric = Uniform | LogUniform | RandInt | Steps


def choice(options: Sequence[Any]) -> Choice:
    """One of `options`; an option that is a mapping is a conditional sub-space.

    Raises:
        SpecError: no option.
    """
    if isinstance(options, str) or not isinstance(options, Sequence) or not options:
        raise SpecError(f"choice: {options!r} has no options: give a list with at least one")
    return Choice(tuple(options))


def uniform(low: float, high: float) -> Uniform:
    """A float in [low, high).

    Raises:
        SpecError: bounds that are not finite numbers with low < high.
    """
    _check_bounds("uniform", low, high)
    return Uniform(float(low), float(high))


def loguniform(low: float, high: float) -> LogUniform:
    """A float in [low, high), uniform in its logarithm; the bounds are the values themselves, not exponents.

    Raises:
        SpecError: bounds that are not finite numbers with 0 < low < high.
    """
    _check_bounds("loguniform", low, high)
    if low <= 0:
        raise SpecError(f"loguniform: low is {low!r}, and a logarithm needs more than 0")
    return LogUniform(float(low), float(high))


def randint(low: int, high: int, step: int = 1, log: bool = False) -> RandInt:
    """An integer in [low, high), as in `random.randrange`; with `log` about uniform in its logarithm.

    Raises:
        SpecError: bounds that are not integers with low < high; a step below 1; `log` with a step, or from below 1.
    """
    _check_bounds("randint", low, high)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise SpecError(f"randint: {low!r} and {high!r} must both be integers; use uniform for floats")
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise SpecError(f"randint: step is {step!r}, and must be a whole number of at least 1")
    if log and (low < 1 or step != 1):
        raise SpecError(f"randint: low is {low!r} and step {step!r}; with log=True low is at least 1 and step is 1")
    return RandInt(low, high, step, bool(log))


def as_dimension(value: Any, path: str = "search") -> Any:
    """The `Dimension` that a list or one of Optuna's distributions stands for; other values as they are.

    Optuna's distributions are known by name, so that Optuna need not be there. Their bounds are inclusive: integers
    keep the last value; a float loses the single point `high`.

    Raises:
        SpecError: a distribution that is not one of Float, Int and CategoricalDistribution.
    """
    match value:
        case list() | tuple():
            return Choice(tuple(value))
        case _ if type(value).__module__ == "optuna.distributions":
            return _from_optuna(value, path)
        case _:
            return value


def _from_optuna(distribution: Any, path: str) -> Any:
    kind, given = type(distribution).__name__, distribution
    if kind == "CategoricalDistribution":
        return Choice(tuple(given.choices))
    if kind not in ("FloatDistribution", "IntDistribution"):
        raise SpecError(f"{path}: {given!r} is not known; of Optuna's, give Float, Int or CategoricalDistribution")
    if given.low == given.high:
        return given.low
    if kind == "IntDistribution":
        return randint(given.low, given.high + 1, given.step, given.log)
    if given.step is not None:
        return Steps(given.low, given.step, 1 + round((given.high - given.low) / given.step))
    return loguniform(given.low, given.high) if given.log else uniform(given.low, given.high)


def check_space(space: object, path: str = "search") -> None:
    """Check that `space` is a mapping of names to values that a config may hold.

    Raises:
        SpecError: naming the dimension.
    """
    if not isinstance(space, Mapping) or not space:
        raise SpecError(f"{path}: {space!r} is not a space: give a non-empty dict of names and values")
    if is_staged(space):
        raise SpecError(f"{path}: {space!r} is by epoch as a whole: give stages to the values of single names")
    _check_names(space, path)


def _check_names(space: Mapping[Any, Any], path: str) -> None:
    for name, value in space.items():
        if not isinstance(name, str) or not name:
            raise SpecError(f"{path}: {name!r} is not the name of a dimension: use a non-empty string")
        _check_value(value, f"{path}[{name!r}]")


def grid(space: Mapping[str, Any], path: str = "search") -> Iterator[dict[str, Any]]:
    """Every config of a space of choices, the last dimension moving fastest.

    Raises:
        SpecError: a dimension is continuous, so that it has no grid.
    """
    axes = [list(_grid_values(value, f"{path}[{name!r}]")) for name, value in space.items()]
    for point in product(*axes):
        yield dict(zip(space, point, strict=True))


def _grid_values(value: Any, path: str) -> Iterator[Any]:
    match value := as_dimension(value, path):
        case Choice(options):
            for option in options:
                # A list among the options is a value of its own, not another choice.
                yield from (option,) if isinstance(option, list | tuple) else _grid_values(option, path)
        case Mapping():
            yield from grid(value, path)
        case Uniform() | LogUniform() | RandInt() | Steps():
            raise SpecError(f"{path}: Grid needs a list of values, not {value}: write the values out")
        case _:
            yield value


def _check_value(value: Any, path: str) -> None:
    match value := as_dimension(value, path):
        case Choice(options):
            if not options:
                raise SpecError(f"{path}: the list is empty: give at least one value")
            for option in options:
                _check_value(option, path)
        case Mapping() if is_staged(value):
            check_staged(value, path)
            _check_names(value, path)
        case Mapping():
            check_space(value, path)
        case Uniform() | LogUniform() | RandInt() | Steps() | None | bool() | str() | int():
            pass
        case float():
            if not math.isfinite(value):
                raise SpecError(f"{path}: {value!r} is not finite")
        case _:
            raise SpecError(
                f"{path}: {value!r} is a {type(value).__name__}; a config holds numbers, strings, booleans, None, "
                "lists and dicts (give the name of a class or function, and look it up in build)"
            )


def _check_bounds(kind: str, low: Any, high: Any) -> None:
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise SpecError(f"{kind}: {bound!r} is not a finite number")
    if not low < high:
        raise SpecError(f"{kind}: low is {low!r} and high is {high!r}; low must be the smaller")
