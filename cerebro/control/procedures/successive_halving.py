"""Rounds that each keep the best share of the models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, check_fits, check_rungs
from cerebro.control.procedures.rungs import Bracket, rung_epochs
from cerebro.control.source import Source, Supply, as_source
from cerebro.spec.sampling import Constraint


@dataclass
class SuccessiveHalving(Procedure):
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): `models` begin, and the best 1/eta of each rung go on.

    A rung waits for all of its models, so that the answer does not depend on who is first. Models that failed are the
    worst; models that a person stopped are left out, and others take their places in the next rung. `constraint` says
    which configs of a space are allowed.

    Raises:
        SpecError: a value is out of its range.
    """

    space: Mapping[str, Any] | Source
    models: int = field(kw_only=True)
    max_epochs: int = field(kw_only=True)
    eta: int = field(default=3, kw_only=True)
    min_epochs: int = field(default=1, kw_only=True)
    lanes: int = field(default=8, kw_only=True)  # pyright: ignore[reportIncompatibleMethodOverride]
    constraint: Constraint | None = field(default=None, kw_only=True)
    _source: Source = field(init=False, repr=False, compare=False)
    _supply: Supply = field(init=False, repr=False, compare=False)
    _bracket: Bracket = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("SuccessiveHalving.models", self.models, least=1)
        check_count("SuccessiveHalving.lanes", self.lanes, least=1)
        check_rungs("SuccessiveHalving", self.min_epochs, self.max_epochs, self.eta)
        self._source = as_source(self.space, self.constraint)

    def begin(self, terms: Terms) -> None:
        check_fits("SuccessiveHalving.max_epochs", self.max_epochs, terms)
        self._source.begin(terms)
        self._supply = Supply(self._source, self.models)
        epochs = rung_epochs(self.min_epochs, self.max_epochs, self.eta)
        self._bracket = Bracket(self.models, epochs, self.eta, terms.mode, {})

    def ask(self, fresh: str) -> Decision | None:
        return self._bracket.ask(fresh, self._supply)

    def tell(self, result: Result) -> Sequence[Decision]:
        self._source.observe(result)
        self._bracket.tell(result)
        return ()

    def censor(self, model: str, epoch: int) -> None:
        self._source.censor(model, epoch)
        self._bracket.censor(model)

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "successive-halving",
            "source": self._source.describe(),
            "models": self.models,
            "max_epochs": self.max_epochs,
            "eta": self.eta,
            "min_epochs": self.min_epochs,
            "lanes": self.lanes,
        }
