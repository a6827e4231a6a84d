"""Brackets of successive halving that trade many models against long training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, check_fits, check_rungs
from cerebro.control.procedures.rungs import Bracket, rung_epochs
from cerebro.control.source import Source, Supply, as_source
from cerebro.spec.sampling import Constraint


def bracket_models(max_epochs: int, eta: int) -> dict[int, int]:
    """How many models begin in each bracket s, from the most eager one down to 0: n of Algorithm 1, line 3."""
    most = len(rung_epochs(1, max_epochs, eta)) - 1
    return {s: -(-(most + 1) * eta**s // (s + 1)) for s in range(most, -1, -1)}


@dataclass
class Hyperband(Procedure):
    """Hyperband (Li et al., JMLR 18(185), 2018, Algorithm 1): every bracket once.

    Bracket s begins with ceil((s_max + 1) eta^s / (s + 1)) models of max_epochs / eta^s epochs, and halves them as
    `SuccessiveHalving` does. Brackets interleave: while one waits for a rung, the next ones begin. `constraint` says
    which configs of a space are allowed.

    Raises:
        SpecError: a value is out of its range.
    """

    space: Mapping[str, Any] | Source
    max_epochs: int = field(kw_only=True)
    eta: int = field(default=3, kw_only=True)
    lanes: int = field(default=8, kw_only=True)  # pyright: ignore[reportIncompatibleMethodOverride]
    constraint: Constraint | None = field(default=None, kw_only=True)
    _source: Source = field(init=False, repr=False, compare=False)
    _supply: Supply = field(init=False, repr=False, compare=False)
    _brackets: list[Bracket] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_rungs("Hyperband", 1, self.max_epochs, self.eta)
        check_count("Hyperband.lanes", self.lanes, least=1)
        self._source = as_source(self.space, self.constraint)

    def begin(self, terms: Terms) -> None:
        check_fits("Hyperband.max_epochs", self.max_epochs, terms)
        self._source.begin(terms)
        self._supply = Supply(self._source, None)
        epochs = rung_epochs(1, self.max_epochs, self.eta)
        self._brackets = [
            Bracket(models, epochs[len(epochs) - 1 - s :], self.eta, terms.mode, {"bracket": s})
            for s, models in bracket_models(self.max_epochs, self.eta).items()
        ]

    def ask(self, fresh: str) -> Decision | None:
        for bracket in self._brackets:
            decision = bracket.ask(fresh, self._supply)
            if decision is not None:
                return decision
        return None

    def tell(self, result: Result) -> Sequence[Decision]:
        self._source.observe(result)
        for bracket in self._brackets:
            bracket.tell(result)
        return ()

    def censor(self, model: str, epoch: int) -> None:
        self._source.censor(model, epoch)
        for bracket in self._brackets:
            bracket.censor(model)

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "hyperband",
            "source": self._source.describe(),
            "max_epochs": self.max_epochs,
            "eta": self.eta,
            "lanes": self.lanes,
        }
