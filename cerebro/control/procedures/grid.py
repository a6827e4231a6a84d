"""Every combination of listed values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.commands import Add
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.errors import SpecError
from cerebro.ids import canonical_json
from cerebro.spec.sampling import Constraint, check_constraint
from cerebro.spec.space import check_space, grid


@dataclass
class Grid(Procedure):
    """Every combination of the listed values that `constraint` allows, the last dimension moving fastest.

    Raises:
        SpecError: the space is empty, holds a continuous dimension, or gives a config twice; or none is allowed.
    """

    space: Mapping[str, Any]
    constraint: Constraint | None = field(default=None, kw_only=True)
    _begun: int = field(default=0, init=False, repr=False, compare=False)
    _configs: tuple[dict[str, Any], ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_space(self.space)
        check_constraint(self.constraint)
        seen: dict[str, Any] = {}
        for config in self.configs():
            if seen.setdefault(canonical_json(config), config) is not config:
                raise SpecError(f"search: the config {config!r} comes twice: remove the repeated value")
        if not seen:
            raise SpecError("search: constraint allows no config of the grid")

    def configs(self) -> tuple[dict[str, Any], ...]:
        """The configs in order: `m001` is the first."""
        return tuple(config for config in grid(self.space) if self.constraint is None or self.constraint(config))

    def begin(self, terms: Terms) -> None:
        self._begun, self._configs = 0, self.configs()

    def ask(self, fresh: str) -> Decision | None:
        if self._begun == len(self._configs):
            return None
        self._begun += 1
        why = {"source": "grid", "number": self._begun, "models": len(self._configs)}
        return Decision(Add(self._configs[self._begun - 1]), why)

    def tell(self, result: Result) -> Sequence[Decision]:
        return ()

    def describe(self) -> dict[str, Any]:
        """What of this is part of an experiment's identity."""
        return {"procedure": "grid", "configs": list(self.configs())}
