"""Search spaces: what a config may be.

A space is a plain mapping from names to values. A value is a list (one of these), one of `choice`, `uniform`,
`loguniform`, `randint`, a nested mapping (a sub-space), or a constant. A mapping inside a `choice` or a list is a
conditional sub-space: its dimensions exist only where it was chosen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cerebro.errors import SpecError

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
    """An integer in [low, high), as in `random.randrange`."""

    low: int
    high: int


Dimension = Choice | Uniform | LogUniform | RandInt


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


def randint(low: int, high: int) -> RandInt:
    """An integer in [low, high).

    Raises:
        SpecError: bounds that are not integers with low < high.
    """
    _check_bounds("randint", low, high)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise SpecError(f"randint: {low!r} and {high!r} must both be integers; use uniform for floats")
    return RandInt(low, high)


def check_space(space: object, path: str = "search") -> None:
    """Check that `space` is a mapping of names to values that a config may hold.

    Raises:
        SpecError: naming the dimension.
    """
    if not isinstance(space, Mapping) or not space:
        raise SpecError(f"{path}: {space!r} is not a space: give a non-empty dict of names and values")
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
    match value:
        case Choice(options):
            for option in options:
                yield from grid(option, path) if isinstance(option, Mapping) else (option,)
        case list() | tuple():
            yield from _grid_values(Choice(tuple(value)), path)
        case Mapping():
            yield from grid(value, path)
        case Uniform() | LogUniform() | RandInt():
            raise SpecError(f"{path}: Grid needs a list of values, not {value}: write the values out")
        case _:
            yield value


def _check_value(value: Any, path: str) -> None:
    match value:
        case Choice(options):
            for option in options:
                _check_value(option, path)
        case Mapping():
            check_space(value, path)
        case list() | tuple():
            if not value:
                raise SpecError(f"{path}: the list is empty: give at least one value")
            for option in value:
                _check_value(option, path)
        case Uniform() | LogUniform() | RandInt() | None | bool() | str() | int():
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
