"""Units that are one computation, made once for several models: a stage fork (Hippo, PVLDB 15(5), 2022)."""

from collections.abc import Sequence

import numpy as np

from cerebro.ids import canonical_json
from cerebro.messages import Unit
from cerebro.plan.program import Member


def same_visits(
    units: Sequence[Unit], members: Sequence[Member], parents: Sequence[memoryview | None]
) -> list[list[int]]:
    """The places of units of one pass that are the same function of the same inputs, group by group.

    They are the same visit already; what is left to compare are the config of the epoch, the repeat, what is taken
    over of the parent state, and that state itself, byte by byte.
    """
    found: dict[tuple[str, int, str], list[list[int]]] = {}
    for place, (unit, member) in enumerate(zip(units, members, strict=True)):
        function = (canonical_json(member.config_in(unit.epoch)), member.repeat, member.starts(unit))
        groups = found.setdefault(function, [])
        same = next((group for group in groups if _equal(parents[group[0]], parents[place])), None)
        if same is None:
            groups.append([place])
        else:
            same.append(place)
    return [group for groups in found.values() for group in groups]


def _equal(one: memoryview | None, other: memoryview | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
