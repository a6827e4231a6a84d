"""What is searched, and how: the values given as `Experiment(search=...)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.errors import SpecError
from cerebro.ids import canonical_json
from cerebro.spec.space import check_space, grid


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of the listed values, the last dimension moving fastest.

    Raises:
        SpecError: the space is empty, holds a continuous dimension, or gives a config twice.
    """

    space: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_space(self.space)
        seen: dict[str, Any] = {}
        for config in grid(self.space):
            if seen.setdefault(canonical_json(config), config) is not config:
                raise SpecError(f"search: the config {config!r} comes twice: remove the repeated value")

    def configs(self) -> tuple[dict[str, Any], ...]:
        """The configs in order: `m001` is the first."""
        return tuple(grid(self.space))

    def describe(self) -> dict[str, Any]:
        """What of this is part of an experiment's identity."""
        return {"procedure": "grid", "configs": list(self.configs())}
