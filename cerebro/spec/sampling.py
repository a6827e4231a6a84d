"""Points of a space: how configs are drawn, taken apart into coordinates, and put together again.

A coordinate is the value of one dimension, found by its path: `("optimizer", "lr")`, or `("optimizer", 1, "lr")` where
`optimizer` is a choice whose option 1 is a sub-space. The coordinate of a choice is the index of its option.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cerebro.errors import SpecError
from cerebro.quantities import count_text
from cerebro.spec.space import Choice, Config, Dimension, LogUniform, RandInt, Steps, Uniform, as_dimension
from cerebro.streams import Key, stream_bytes

Path = tuple[int | str, ...]
Constraint = Callable[[Config], bool]
"""Says of a config whether it is allowed: how dimensions may go together."""
Pick = Callable[[Path, Dimension], Any]

ATTEMPTS = 1000
"""How many configs are drawn for one model before its space counts as empty or used up."""


def check_constraint(constraint: Any) -> None:
    """Check that a constraint can be asked.

    Raises:
        SpecError: it is not a function.
    """
    if constraint is not None and not callable(constraint):
        raise SpecError(f"search: constraint={constraint!r} cannot be called; give a function of a config")


def sample(
    space: Mapping[str, Any],
    key: Key,
    constraint: Constraint | None = None,
    taken: Callable[[Config], bool] | None = None,
) -> dict[str, Any] | None:
    """The first config on the stream of `key` that `constraint` allows and that is not `taken`.

    Every dimension draws from a stream of its own, whose key is `key`, the number of the attempt and its path: adding
    a dimension changes no draw of another. None: there are allowed configs, but all that were drawn are taken.

    Raises:
        SpecError: `constraint` allowed none of the first `ATTEMPTS` configs.
    """
    allowed = 0
    for attempt in range(ATTEMPTS):
        config = _draw_config(space, (*key, attempt))
        if constraint is not None and not constraint(config):
            continue
        allowed += 1
        if taken is None or not taken(config):
            return config
    if not allowed:
        raise SpecError(
            f"search: constraint allowed 0 of {count_text(ATTEMPTS, 'config')} drawn for one model, so under "
            f"{1 / ATTEMPTS:.1%} of the space; make the space smaller, or give conditional sub-spaces instead"
        )
    return None


def draw(dimension: Dimension, key: Key) -> Any:
    """The coordinate of a dimension on the stream of `key`."""
    match dimension:
        case Choice(options):
            return whole(key, len(options))
        case Uniform(low, high):
            return inside(low + (high - low) * fraction(key), low, high)
        case LogUniform(low, high):
            return inside(low * math.exp(math.log(high / low) * fraction(key)), low, high)
        case RandInt(low, high, step, log):
            if not log:
                return low + step * whole(key, len(range(low, high, step)))
            # Each integer has the share of the interval of length one around it, in the logarithm.
            spread = math.log((high - 0.5) / (low - 0.5))
            return min(max(round((low - 0.5) * math.exp(spread * fraction(key))), low), high - 1)
        case Steps(count=count):
            return dimension.value(whole(key, count))


def assemble(space: Mapping[str, Any], pick: Pick, path: Path = ()) -> dict[str, Any]:
    """The config whose coordinates are those that `pick` gives; only the dimensions that exist are asked for."""
    # Asked for by name, so that the order in which a space was written decides nothing.
    values = {name: _assemble_value(space[name], pick, (*path, name)) for name in sorted(space)}
    return {name: values[name] for name in space}


def coordinates(space: Mapping[str, Any], config: Config) -> dict[Path, Any] | None:
    """The coordinates of `config`, such that `assemble` gives it back; None if it is not in the space."""
    found: dict[Path, Any] = {}
    return found if _locate(space, config, (), found) else None


def dimensions(space: Mapping[str, Any]) -> Iterator[tuple[Path, Dimension]]:
    """All dimensions with their paths, also those that exist only under some options."""
    return _dimensions(space, ())


def count_configs(space: Mapping[str, Any]) -> int | None:
    """How many configs the space holds, counting repeated options as different; None: a dimension is continuous."""
    counts = [_count_values(value) for value in space.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def path_text(path: Path) -> str:
    """A path as people write it: `optimizer.lr`, or `optimizer[1].lr` under option 1."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def describe_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """The space as JSON; two spaces have the same one if and only if they hold the same dimensions and values."""
    return {name: _describe_value(value) for name, value in space.items()}


def _count_values(value: Any) -> int | None:
    match value := as_dimension(value):
        case Mapping():
            return count_configs(value)
        case Choice(options):
            counts = [1 if isinstance(option, list | tuple) else _count_values(option) for option in options]
            return None if None in counts else sum(count for count in counts if count is not None)
        case Uniform() | LogUniform():
            return None
        case RandInt(low, high, step):
            return len(range(low, high, step))
        case Steps(count=count):
            return count
        case _:
            return 1


def _draw_config(space: Mapping[str, Any], key: Key) -> dict[str, Any]:
    return assemble(space, lambda path, dimension: draw(dimension, (*key, *path)))


def fraction(key: Key) -> float:
    """A float in [0, 1), of 53 random bits."""
    return (int.from_bytes(stream_bytes(key, 8), "little") >> 11) * 2.0**-53


def whole(key: Key, count: int) -> int:
    """An index below `count`; 128 bits leave no bias that could be measured."""
    return int.from_bytes(stream_bytes(key, 16), "little") % count


def inside(value: float, low: float, high: float) -> float:
    """The value inside [low, high), which rounding may have left."""
    return min(max(value, low), math.nextafter(high, low))


def _assemble_value(value: Any, pick: Pick, path: Path) -> Any:
    match value := as_dimension(value):
        case Mapping():
            return assemble(value, pick, path)
        case Choice(options):
            index = pick(path, value)
            option = options[index]
            return option if isinstance(option, list | tuple) else _assemble_value(option, pick, (*path, index))
        case Uniform() | LogUniform() | RandInt() | Steps():
            return pick(path, value)
        case _:
            return value


def _locate(space: Mapping[str, Any], config: Any, path: Path, found: dict[Path, Any]) -> bool:
    if not isinstance(config, Mapping) or config.keys() != space.keys():
        return False
    return all(_locate_value(space[name], config[name], (*path, name), found) for name in space)


def _locate_value(value: Any, given: Any, path: Path, found: dict[Path, Any]) -> bool:
    match value := as_dimension(value):
        case Mapping():
            return _locate(value, given, path, found)
        case Choice(options):
            return any(_locate_option(index, option, given, path, found) for index, option in enumerate(options))
        case Uniform() | LogUniform() | RandInt() | Steps():
            found[path] = given
            return _holds(value, given)
        case _:
            return _same(value, given)


def _locate_option(index: int, option: Any, given: Any, path: Path, found: dict[Path, Any]) -> bool:
    inner: dict[Path, Any] = {path: index}
    if isinstance(option, list | tuple):
        fits = isinstance(given, list | tuple) and list(given) == list(option)
    else:
        fits = _locate_value(option, given, (*path, index), inner)
    if fits:
        found.update(inner)
    return fits


def _holds(dimension: Uniform | LogUniform | RandInt | Steps, given: Any) -> bool:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    match dimension:
        case Uniform(low, high) | LogUniform(low, high):
            return low <= given < high
        case RandInt(low, high, step):
            return isinstance(given, int) and given in range(low, high, step)
        case Steps(count=count):
            return any(dimension.value(index) == given for index in range(count))


def _same(value: Any, given: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and True are not."""
    return value == given and isinstance(value, bool) == isinstance(given, bool)


def _dimensions(value: Any, path: Path) -> Iterator[tuple[Path, Dimension]]:
    match value := as_dimension(value):
        case Mapping():
            for name, inner in value.items():
                yield from _dimensions(inner, (*path, name))
        case Choice(options):
            yield path, value
            for index, option in enumerate(options):
                if not isinstance(option, list | tuple):
                    yield from _dimensions(option, (*path, index))
        case Uniform() | LogUniform() | RandInt() | Steps():
            yield path, value
        case _:
            pass


def _describe_value(value: Any) -> Any:
    match value := as_dimension(value):
        case Mapping():
            return describe_space(value)
        case Choice(options):
            # A constant is never a list, so that a list always is a dimension; a list among options says so.
            return [
                "choice",
                *(
                    ["value", list(item)] if isinstance(item, list | tuple) else _describe_value(item)
                    for item in options
                ),
            ]
        case Uniform(low, high):
            return ["uniform", low, high]
        case LogUniform(low, high):
            return ["loguniform", low, high]
        case RandInt(low, high, step, log):
            return ["randint", low, high, step, log]
        case Steps(low, step, count):
            return ["steps", low, step, count]
        case _:
            return value
