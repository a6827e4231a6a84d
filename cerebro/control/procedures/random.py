"""Configs drawn at random, each trained to the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.commands import Add
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count
from cerebro.control.source import RandomSource, Supply
from cerebro.spec.sampling import Constraint


@dataclass
class Random(Procedure):
    """Random search (Bergstra and Bengio, JMLR 13, 2012): `models` configs, each dimension drawn on its own.

    No config comes twice; a space with fewer configs than `models` ends early. `constraint` is a plain function that
    says whether a config is allowed.

    Raises:
        SpecError: the space is none, or `models` is not a whole number of at least 1.
    """

    space: Mapping[str, Any]
    models: int = field(kw_only=True)
    constraint: Constraint | None = field(default=None, kw_only=True)
    _supply: Supply = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("Random.models", self.models, least=1)
        self.source()

    def source(self) -> RandomSource:
        """Where its configs come from."""
        return RandomSource(self.space, self.constraint)

    def begin(self, terms: Terms) -> None:
        source = self.source()
        source.begin(terms)
        self._supply = Supply(source, self.models)

    def ask(self, fresh: str) -> Decision | None:
        config = self._supply.take(fresh)
        if config is None:
            return None
        return Decision(Add(config), {"source": "random", "number": self._supply.begun, "models": self.models})

    def tell(self, result: Result) -> Sequence[Decision]:
        return ()

    def describe(self) -> dict[str, Any]:
        return {"procedure": "random", "source": self.source().describe(), "models": self.models}
