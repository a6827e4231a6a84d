"""Small changes of a config: how population based training moves through a space."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cerebro.errors import SpecError
from cerebro.spec.sampling import Constraint, Path, assemble, coordinates, dimensions, draw, fraction, inside, whole
from cerebro.spec.space import Choice, Config, Dimension, LogUniform, RandInt, Steps, Uniform
from cerebro.streams import Key

ATTEMPTS = 20
"""How many changes are drawn until one satisfies the constraint."""


class Explorer:
    """Changes some dimensions of configs of a space.

    names: the dimensions, as `lr` or `optimizer.lr`; None: all continuous ones.

    Raises:
        SpecError: there is no such dimension, or it has no neighbours.
    """

    def __init__(
        self, space: Mapping[str, Any], names: Sequence[str] | None, perturb: Sequence[float], resample: float
    ) -> None:
        self._space, self._perturb, self._resample = space, perturb, resample
        self._movable = _movable(space, names)

    def explore(self, config: Config, key: Key, constraint: Constraint | None) -> dict[str, Any]:
        """The values, by top-level name, in which the new config differs from `config`; none if all are refused."""
        old = coordinates(self._space, config)
        if old is None:
            return {}
        for attempt in range(ATTEMPTS):
            new = {
                path: self._move(self._movable[path], value, (*key, attempt, *path)) if path in self._movable else value
                for path, value in old.items()
            }
            explored = assemble(self._space, lambda path, dimension, new=new: new[path])
            if constraint is None or constraint(explored):
                return {name: value for name, value in explored.items() if value != config[name]}
        return {}

    def _move(self, dimension: Dimension, value: Any, key: Key) -> Any:
        if fraction((*key, "resample")) < self._resample:
            return draw(dimension, (*key, "draw"))
        first = whole((*key, "factor"), len(self._perturb))
        # At a bound one of the factors leads nowhere: the other one does.
        for factor in (*self._perturb[first:], *self._perturb[:first]):
            if (moved := nudge(dimension, value, factor)) != value:
                return moved
        return value


def nudge(dimension: Dimension, value: Any, factor: float) -> Any:
    """The value times `factor`, inside its bounds; at least one step where there are steps, a neighbour in a choice."""
    match dimension:
        case Uniform(low, high) | LogUniform(low, high):
            return inside(value * factor, low, high)
        case RandInt(low, _, step, _):
            index = _step((value - low) // step, (value * factor - low) / step, factor)
            return min(max(low + step * index, low), dimension.last)
        case Steps(low, step, count):
            index = _step(round((value - low) / step), (value * factor - low) / step, factor)
            return dimension.value(min(max(index, 0), count - 1))
        case Choice(options):
            up = (factor > 1) == (options[-1] > options[0])
            return min(max(value + (1 if up else -1), 0), len(options) - 1)


def _step(index: int, wanted: float, factor: float) -> int:
    return round(wanted) if round(wanted) != index else index + (1 if factor > 1 else -1)


def _movable(space: Mapping[str, Any], names: Sequence[str] | None) -> dict[Path, Dimension]:
    able = {path: dimension for path, dimension in dimensions(space) if _has_neighbours(dimension)}
    if names is None:
        found: dict[Path, Dimension] = {
            path: dimension for path, dimension in able.items() if isinstance(dimension, Uniform | LogUniform)
        }
        if not found:
            raise SpecError(
                "PBT.explore: the space has no continuous dimension to perturb; "
                f"give explore=(...) of {', '.join(map(_plain, able)) or 'a space that has numbers'}"
            )
        return found
    for name in names:
        if not any(name in (_plain(path), path[0]) for path in able):
            raise SpecError(
                f"PBT.explore: {name!r} cannot be perturbed; give names of numeric dimensions "
                f"or of choices of ordered numbers: {', '.join(map(_plain, able)) or 'there are none'}"
            )
    return {path: dimension for path, dimension in able.items() if _plain(path) in names or path[0] in names}


def _plain(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def _has_neighbours(dimension: Dimension) -> bool:
    if not isinstance(dimension, Choice):
        return True
    options = dimension.options
    if len(options) < 2 or any(isinstance(item, bool) or not isinstance(item, int | float) for item in options):
        return False
    steps = [math.copysign(1, after - before) for before, after in pairwise(options)]
    return len(set(steps)) == 1 and len(set(options)) == len(options)
