"""Successive halving that waits for nobody."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from cerebro.commands import Add, Resume
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, check_fits, check_rungs, cost, value_of
from cerebro.control.procedures.ledger import Ledger, News
from cerebro.control.procedures.rungs import rung_epochs
from cerebro.control.source import Source, Supply, as_source
from cerebro.spec.sampling import Constraint

Entry = tuple[float, int, str]


class Rung:
    """The models that have come to a rung; finding the best unpromoted one takes the logarithm of their number.

    entries: (cost, number, model), so that the earlier model wins a tie.
    """

    def __init__(self, eta: int) -> None:
        self._eta = eta
        self._seen = 0
        self._ranked: list[Entry] = []
        self._unpromoted: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """A model has come here."""
        self._seen += 1
        if entry[0] < float("inf"):
            insort(self._ranked, entry)
            heappush(self._unpromoted, entry)

    def promotable(self, ledger: Ledger, until: int) -> tuple[Entry, int, int, float] | None:
        """The best model of the top 1/eta that was not promoted: its entry, rank, how many were seen, the last cost."""
        room = self._seen // self._eta
        while self._unpromoted and not ledger.can_go_on(self._unpromoted[0][2], until):
            heappop(self._unpromoted)
        if not self._unpromoted:
            return None
        rank = bisect_left(self._ranked, self._unpromoted[0]) + 1
        if rank > room:
            return None
        threshold = self._ranked[min(room, len(self._ranked)) - 1][0]
        return heappop(self._unpromoted), rank, self._seen, threshold


@dataclass
class ASHA(Procedure):
    """Asynchronous successive halving (Li et al., MLSys 2020, Algorithm 2), by promotion.

    A free lane promotes the best model of the top 1/eta of the highest rung that has an unpromoted one there; where
    there is none, it begins a new model. `models` bounds how many begin. Models that failed count as seen, and are
    the worst; models that a person stopped keep their values, and are not promoted. `constraint` says which configs of
    a space are allowed.

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
    _mode: str = field(default="max", init=False, repr=False, compare=False)
    _epochs: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    _rungs: list[Rung] = field(init=False, repr=False, compare=False)
    _levels: dict[str, int] = field(init=False, repr=False, compare=False)
    _ledger: Ledger = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("ASHA.models", self.models, least=1)
        check_count("ASHA.lanes", self.lanes, least=1)
        check_rungs("ASHA", self.min_epochs, self.max_epochs, self.eta)
        self._source = as_source(self.space, self.constraint)

    def begin(self, terms: Terms) -> None:
        check_fits("ASHA.max_epochs", self.max_epochs, terms)
        self._source.begin(terms)
        self._supply = Supply(self._source, self.models)
        self._mode = terms.mode
        self._epochs = rung_epochs(self.min_epochs, self.max_epochs, self.eta)
        self._rungs = [Rung(self.eta) for _ in self._epochs]
        self._levels, self._ledger = {}, Ledger()

    def ask(self, fresh: str) -> Decision | None:
        for level in reversed(range(len(self._epochs) - 1)):
            decision = self._promote(level)
            if decision is not None:
                return decision
        config = self._supply.take(fresh)
        if config is None:
            return None
        self._expect(fresh, 0)
        why = {"rung": 0, "epochs": self._epochs[0], "source": self._supply.source, "number": self._supply.begun}
        return Decision(Add(config, until=self._epochs[0]), why)

    def tell(self, result: Result) -> Sequence[Decision]:
        self._source.observe(result)
        if self._ledger.settle(result) is News.CAME:
            entry = (cost(result.value, self._mode), self._ledger.number(result.model), result.model)
            self._rungs[self._levels[result.model]].add(entry)
        return ()

    def censor(self, model: str, epoch: int) -> None:
        self._source.censor(model, epoch)
        self._ledger.censor(model)

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "asha",
            "source": self._source.describe(),
            "models": self.models,
            "max_epochs": self.max_epochs,
            "eta": self.eta,
            "min_epochs": self.min_epochs,
            "lanes": self.lanes,
        }

    def _promote(self, level: int) -> Decision | None:
        epochs = self._epochs[level + 1]
        found = self._rungs[level].promotable(self._ledger, epochs)
        if found is None:
            return None
        (score, _, model), rank, seen, threshold = found
        self._expect(model, level + 1)
        why = {
            "rung": level + 1,
            "epochs": epochs,
            "rank": rank,
            "seen": seen,
            "threshold": value_of(threshold, self._mode),
            "value": value_of(score, self._mode),
        }
        return Decision(Resume(model, until=epochs), why)

    def _expect(self, model: str, level: int) -> None:
        self._levels[model] = level
        self._ledger.expect(model, self._epochs[level])
