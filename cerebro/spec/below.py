"""`freeze_below`: all that a module lists before one of its sub-modules, as names to be frozen."""

from collections.abc import Sequence
from typing import Any

from cerebro.errors import SpecError

_NEAR = 8
"""So many names an error suggests."""


def frozen_below(name: Any, module: Any, freeze: Sequence[str]) -> tuple[str, ...]:
    """The names in `freeze`, and those of all that comes before the sub-module `name` of `module`.

    Raises:
        SpecError: there is no such sub-module, nothing comes before it, or what does cannot be told.
    """
    known = {path: part for path, part in module.named_modules(remove_duplicate=False) if path}
    if name not in known:
        near = ", ".join(sorted(known, key=lambda other: (other.count("."), other))[:_NEAR])
        raise SpecError(f"Learner.freeze_below: the module has no sub-module {name!r}; it has {near or 'none'}")
    paths = [path for path, part in known.items() if part is known[name]]
    if len(paths) > 1:
        raise SpecError(
            f"Learner.freeze_below: {name!r} is not on one path: the module has it as {' and as '.join(paths)}; "
            "give the names of what is frozen in freeze"
        )
    found = list(freeze)
    around, place = module, ""
    for step in name.split("."):
        if type(around).__name__ == "ModuleDict":
            raise SpecError(
                f"Learner.freeze_below: {name!r} is not on one path: {place} is a ModuleDict, whose members have no "
                "order; give the names of what is frozen in freeze"
            )
        before = _before(step, around)
        found += [path for child in before if (path := f"{place}.{child}".lstrip(".")) not in found]
        around, place = known[f"{place}.{step}".lstrip(".")], f"{place}.{step}".lstrip(".")
    if not found:
        raise SpecError(
            f"Learner.freeze_below: nothing comes before {name!r} in the module; use None to freeze nothing"
        )
    return tuple(found)


def _before(step: str, around: Any) -> list[str]:
    """The children that a module lists before one of them."""
    names = [name for name, _ in around.named_children()]
    return names[: names.index(step)]
