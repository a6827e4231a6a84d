"""Stages: a hyper-parameter that has other values from some epochs on (Hippo, PVLDB 15(5), 2022, "stage trees").

In a config it is a plain mapping, `{"@1": 0.1, "@6": 0.01}`: 0.1 from epoch 1, 0.01 from epoch 6. So a stage is a name
like any other: `lr.@6` is a column of the leaderboard, a dimension of a search, a knob of a clone.
"""

import re
from collections.abc import Mapping
from typing import Any

from cerebro.errors import SpecError

Config = Mapping[str, Any]

_STAGE = re.compile(r"@[1-9][0-9]*")


def stages(values: Mapping[int, Any]) -> dict[str, Any]:
    """A hyper-parameter by epoch, for a space: `stages({1: 0.1, 6: choice([0.01, 0.001])})`.

    Keys are the epochs, from 1, from which on a value holds; a value is anything that a space may hold there. `build`
    is called with the config of the epoch at hand, in which this is a plain value: where it changes, the learner is
    built anew and the parameters, what the optimizer remembers and the steps of its schedule go on. So a stage may
    change rates, penalties, the loss, the batch size, but nothing that changes the shapes of what is trained.

    Raises:
        SpecError: not a mapping of whole epochs from 1 on, or no value for epoch 1.
    """
    if not isinstance(values, Mapping) or not values:
        raise SpecError(f"stages: {values!r} is not a mapping of epochs and values, such as {{1: 0.1, 6: 0.01}}")
    for epoch in values:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
            raise SpecError(
                f"stages: {epoch!r} is not an epoch; give whole numbers from 1, such as {{1: 0.1, 6: 0.01}}"
            )
    if 1 not in values:
        raise SpecError(f"stages: there is no value for epoch 1, the first is for epoch {min(values)}: add one for 1")
    return {f"@{epoch}": values[epoch] for epoch in sorted(values)}


def is_staged(value: Any) -> bool:
    """Whether a value of a config or a space is one by epoch."""
    return isinstance(value, Mapping) and any(isinstance(name, str) and name.startswith("@") for name in value)


def check_staged(value: Mapping[str, Any], path: str) -> None:
    """Check that a staged value is as `stages` gives it.

    Raises:
        SpecError: it is not.
    """
    wrong = next((name for name in value if not (isinstance(name, str) and _STAGE.fullmatch(name))), None)
    if wrong is None and "@1" not in value:
        wrong = next(iter(value))
    if wrong is not None:
        raise SpecError(
            f"{path}: {wrong!r} beside {', '.join(map(repr, value))}: names that begin with '@' are epochs, the first "
            "of them '@1'; give cerebro.stages({1: ..., 6: ...}), or another name"
        )


def at_epoch(config: Config, epoch: int) -> dict[str, Any]:
    """The config with the values that hold in an epoch, from 1: what `build` is given."""
    return {name: _at_epoch(value, epoch) for name, value in config.items()}


def stage_starts(config: Config) -> tuple[int, ...]:
    """The epochs from which on some value is said to hold, ascending; only the first where nothing is staged."""
    return tuple(sorted({1, *_starts(config)}))


def _at_epoch(value: Any, epoch: int) -> Any:
    if not isinstance(value, Mapping):
        return value
    if not is_staged(value):
        return at_epoch(value, epoch)
    start = max((start for start in map(_epoch, value) if start <= epoch), default=1)
    return _at_epoch(value[f"@{start}"], epoch)


def _starts(value: Any) -> set[int]:
    if not isinstance(value, Mapping):
        return set()
    own = set(map(_epoch, value)) if is_staged(value) else set[int]()
    return own.union(*map(_starts, value.values()))


def _epoch(name: str) -> int:
    return int(name[1:])
