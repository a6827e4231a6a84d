"""Stop what does worse than the median of the others."""

from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.commands import Add, Resume, Stop
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, check_fits, cost, value_of
from cerebro.control.procedures.ledger import Ledger, News
from cerebro.control.procedures.random import Random
from cerebro.control.source import Source, Supply, as_source
from cerebro.errors import SpecError
from cerebro.spec.sampling import Constraint


@dataclass
class _Curve:
    """What a model has shown so far, as costs."""

    total: float = 0.0
    best: float = float("inf")


@dataclass
class MedianStopping(Procedure):
    """The median rule (Golovin et al., Vizier, KDD 2017, section 3.2.2), epoch by epoch.

    A model is stopped at the end of an epoch if the best value that it has shown so far is worse than the median of
    the running averages, up to that epoch, of the others that have come to it. Nothing is stopped before `min_epochs`,
    or with fewer than `startup` others. Models that failed are stopped, and are no longer among the others.

    `search` is `Random(...)`, or a space or a source together with `models=`; `constraint` says which configs of a
    space are allowed.

    Raises:
        SpecError: a value is out of its range, or `models` is missing or given twice.
    """

    search: Random | Source | Mapping[str, Any]
    models: int | None = field(default=None, kw_only=True)
    min_epochs: int = field(default=1, kw_only=True)
    startup: int = field(default=4, kw_only=True)
    lanes: int = field(default=8, kw_only=True)  # pyright: ignore[reportIncompatibleMethodOverride]
    constraint: Constraint | None = field(default=None, kw_only=True)
    _source: Source = field(init=False, repr=False, compare=False)
    _supply: Supply = field(init=False, repr=False, compare=False)
    _terms: Terms = field(init=False, repr=False, compare=False)
    _ledger: Ledger = field(init=False, repr=False, compare=False)
    _going: deque[Decision] = field(init=False, repr=False, compare=False)
    _curves: dict[str, _Curve] = field(init=False, repr=False, compare=False)
    _averages: dict[int, list[float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.search, Random) and self.models is not None:
            raise SpecError(f"MedianStopping.models: {self.models!r} and {self.search!r} both say it; leave it out")
        check_count("MedianStopping.models", self._models(), least=1)
        check_count("MedianStopping.min_epochs", self.min_epochs, least=1)
        check_count("MedianStopping.startup", self.startup, least=1)
        check_count("MedianStopping.lanes", self.lanes, least=1)
        given = self.search.source() if isinstance(self.search, Random) else self.search
        self._source = as_source(given, self.constraint)

    def begin(self, terms: Terms) -> None:
        check_fits("MedianStopping.min_epochs", self.min_epochs, terms)
        self._source.begin(terms)
        self._supply, self._ledger, self._terms = Supply(self._source, self._models()), Ledger(), terms
        self._going, self._curves, self._averages = deque(), {}, {}

    def ask(self, fresh: str) -> Decision | None:
        while self._going:
            decision = self._going.popleft()
            command = decision.command
            assert isinstance(command, Resume)
            assert command.until is not None
            if self._ledger.can_go_on(command.model, command.until):
                self._ledger.expect(command.model, command.until)
                return decision
        config = self._supply.take(fresh)
        if config is None:
            return None
        self._ledger.expect(fresh, 1)
        return Decision(
            Add(config, until=1), {"epochs": 1, "source": self._supply.source, "number": self._supply.begun}
        )

    def tell(self, result: Result) -> Sequence[Decision]:
        self._source.observe(result)
        score = cost(result.value, self._terms.mode)
        if self._ledger.settle(result) is not News.CAME or score == float("inf"):
            return ()
        stopped, why = self._judge(result, score)
        if stopped:
            return (Decision(Stop(result.model), why),)
        if result.epoch < self._terms.epochs:
            self._going.append(
                Decision(Resume(result.model, until=result.epoch + 1), {**why, "epochs": result.epoch + 1})
            )
        return ()

    def censor(self, model: str, epoch: int) -> None:
        self._source.censor(model, epoch)
        self._ledger.censor(model)

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "median-stopping",
            "source": self._source.describe(),
            "models": self._models(),
            "min_epochs": self.min_epochs,
            "startup": self.startup,
            "lanes": self.lanes,
        }

    def _models(self) -> int | None:
        return self.search.models if isinstance(self.search, Random) else self.models

    def _judge(self, result: Result, score: float) -> tuple[bool, dict[str, Any]]:
        """Whether a model is to stop, and all that led to it; its own average counts for those that come later."""
        curve = self._curves.setdefault(result.model, _Curve())
        curve.total, curve.best = curve.total + score, min(curve.best, score)
        others = self._averages.setdefault(result.epoch, [])
        why: dict[str, Any] = {"epochs": result.epoch, "seen": len(others), "value": result.value}
        stopped = False
        if result.epoch >= self.min_epochs and len(others) >= self.startup:
            median = _median(others)
            stopped = curve.best > median and result.epoch < self._terms.epochs
            why |= {
                "best": value_of(curve.best, self._terms.mode),
                "threshold": value_of(median, self._terms.mode),
            }
        insort(others, curve.total / result.epoch)
        return stopped, why


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
