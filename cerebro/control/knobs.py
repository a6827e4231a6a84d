"""The hyper-parameters of configs by their names, those of nested mappings by dotted path: `optimizer.lr`."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cerebro.errors import SpecError
from cerebro.ids import canonical_json
from cerebro.report.wording import clipped, flat, value_text

Config = Mapping[str, Any]

_SHOWN = 12


def knobs(config: Config) -> dict[str, Any]:
    """Every value that can be changed, nested mappings as a whole and in their parts."""
    found = dict[str, Any]()
    for name, value in config.items():
        found[name] = value
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": part for inner, part in knobs(value).items()}
    return found


def nested(values: Config) -> dict[str, Any]:
    """The config whose dotted names are paths: the inverse of `cerebro.report.wording.flat`.

    Raises:
        SpecError: a name is both a value and the way to another.
    """
    found = dict[str, Any]()
    for path, value in values.items():
        *outer, last = path.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or last in place:
            raise SpecError(f"{path!r}: a part of it is said to have a value of its own: say one of the two")
        place[last] = value
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two configs, or two values, train the same model: they are equal as JSON."""
    return canonical_json(one) == canonical_json(other)


def check_known(what: str, config: Config, names: Iterable[str]) -> None:
    """Check that a config has all of these knobs.

    Raises:
        SpecError: naming the first that it has not, and the nearest that it has.
    """
    known = knobs(config)
    for name in names:
        if name not in known:
            raise SpecError(f"{what}: there is no hyper-parameter {name!r}; {_nearest(name, list(known))}")


def check_complete(what: str, config: Config, others: Sequence[Config]) -> None:
    """Check that a config has exactly the knobs of one of the others; conditional ones differ from each other.

    Raises:
        SpecError: naming what is missing and what is unknown, beside the config that has most in common with it.
    """
    mine = set(flat(config))
    shapes = list({frozenset(each): each for each in map(flat, others)}.values())
    if not shapes or mine in (set(shape) for shape in shapes):
        return
    nearest = max(shapes, key=lambda shape: len(mine & set(shape)) - len(mine ^ set(shape)))
    for name in flat(config):
        if name not in nearest:
            raise SpecError(f"{what}: there is no hyper-parameter {name!r}; {_nearest(name, list(nearest))}")
    missing = ", ".join(repr(name) for name in nearest if name not in mine)
    raise SpecError(f"{what}: {missing} is missing; a config has {_listed(list(nearest))}")


def check_kinds(what: str, values: Config, others: Sequence[Config]) -> None:
    """Check that no text is given where every config has a number: it would be a number mistyped.

    Raises:
        SpecError: naming the hyper-parameter.
    """
    known = [knobs(config) for config in others]
    for name, value in knobs(values).items():
        if not isinstance(value, str):
            continue
        seen = [config[name] for config in known if name in config]
        if seen and all(_is_number(each) for each in seen):
            raise SpecError(f"{what}: {name}: {value!r} is not a number, such as {value_text(seen[0])}")


def changes_text(changes: Config) -> str:
    """`lr 0.0001, width 64`."""
    return ", ".join(f"{name} {clipped(value_text(value), 60)}" for name, value in changes.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest(name: str, known: Sequence[str]) -> str:
    ends = [each for each in known if each.rpartition(".")[2] == name.rpartition(".")[2]]
    near = ends or difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {_listed(known)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
