"""Population based training: the worst models go on as changed copies of the best."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.commands import Add, Clone, Resume, Stop
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, check_fits, check_fraction, cost, value_of
from cerebro.control.procedures.explore import Explorer
from cerebro.control.procedures.ledger import Ledger, News
from cerebro.control.source import Source, Supply, as_source
from cerebro.errors import SpecError
from cerebro.spec.sampling import Constraint, whole


@dataclass
class PBT(Procedure):
    """Population based training (Jaderberg et al., arXiv 1711.09846) by generations of `interval` epochs.

    At the end of each, a model in the worst `quantile` is stopped, and a clone of one drawn from the best `quantile`
    takes its place (exploit): weights, optimizer and epochs of the parent, with changed values (explore). A changed
    value is drawn anew with probability `resample`, and otherwise multiplied by one of `perturb`, inside its bounds;
    a choice of ordered numbers moves to a neighbour. `explore` names the dimensions that may change, by default the
    continuous ones; they must not change the architecture. `constraint` says which configs of a space are allowed, also
    of clones.

    A generation waits for all of its models, so that all are compared at the same epoch and in any order of arrival
    (the paper compares with whatever the others have reached). Models that failed are replaced as well; models that a
    person stopped leave the population.

    Raises:
        SpecError: a value is out of its range, or `explore` names what cannot be perturbed.
    """

    space: Mapping[str, Any] | Source
    population: int = field(kw_only=True)
    interval: int = field(kw_only=True)
    quantile: float = field(default=0.25, kw_only=True)
    perturb: tuple[float, float] = field(default=(0.8, 1.2), kw_only=True)
    resample: float = field(default=0.25, kw_only=True)
    explore: Sequence[str] | None = field(default=None, kw_only=True)
    constraint: Constraint | None = field(default=None, kw_only=True)
    _source: Source = field(init=False, repr=False, compare=False)
    _supply: Supply = field(init=False, repr=False, compare=False)
    _terms: Terms = field(init=False, repr=False, compare=False)
    _explorer: Explorer = field(init=False, repr=False, compare=False)
    _ledger: Ledger = field(init=False, repr=False, compare=False)
    _epoch: int = field(default=0, init=False, repr=False, compare=False)
    _filled: bool = field(default=False, init=False, repr=False, compare=False)
    _slots: list[str] = field(init=False, repr=False, compare=False)
    _configs: dict[str, Mapping[str, Any]] = field(init=False, repr=False, compare=False)
    _costs: dict[str, float] = field(init=False, repr=False, compare=False)
    _moves: deque[Decision] = field(init=False, repr=False, compare=False)
    _stops: list[Decision] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("PBT.population", self.population, least=2)
        check_count("PBT.interval", self.interval, least=1)
        check_fraction("PBT.quantile", self.quantile, 0, 0.5)
        check_fraction("PBT.resample", self.resample, 0, 1)
        _check_perturb(self.perturb)
        if isinstance(self.explore, str):
            raise SpecError(f"PBT.explore: {self.explore!r} is one string; give a tuple of names: ({self.explore!r},)")
        self._source = as_source(self.space, self.constraint)
        self._explorer = Explorer(self._source.space, self.explore, self.perturb, self.resample)

    @property
    def lanes(self) -> int:
        """The population: a generation trains at once."""
        return self.population

    @property
    def forks(self) -> bool:
        """A parent may have gone on by then, as a person wanted it to: it is cloned as it was with its generation."""
        return True

    def begin(self, terms: Terms) -> None:
        check_fits("PBT.interval", self.interval, terms)
        self._source.begin(terms)
        self._supply, self._ledger = Supply(self._source, self.population), Ledger()
        self._terms, self._epoch, self._filled = terms, self.interval, False
        self._slots, self._configs, self._costs = [], {}, {}
        self._moves, self._stops = deque(), []

    def ask(self, fresh: str) -> Decision | None:
        if not self._filled:
            config = self._supply.take(fresh)
            if config is not None:
                return self._begin(fresh, config)
            self._close_filling()
        while self._moves:
            decision = self._take(self._moves.popleft(), fresh)
            if decision is not None:
                return decision
            self._turn()  # the last one to go on may have been stopped meanwhile
        return None

    def tell(self, result: Result) -> Sequence[Decision]:
        self._source.observe(result)
        news = self._ledger.settle(result)
        if news is News.CAME:
            self._costs[result.model] = cost(result.value, self._terms.mode)
        if news is not News.OTHER:
            self._turn()
        stops, self._stops = self._stops, []
        return stops

    def censor(self, model: str, epoch: int) -> None:
        self._source.censor(model, epoch)
        if self._ledger.censor(model):
            self._turn()

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "pbt",
            "source": self._source.describe(),
            "population": self.population,
            "interval": self.interval,
            "quantile": self.quantile,
            "perturb": list(self.perturb),
            "resample": self.resample,
            "explore": None if self.explore is None else sorted(self.explore),
        }

    def _begin(self, fresh: str, config: Mapping[str, Any]) -> Decision:
        self._expect(fresh, config)
        self._filled = self._supply.begun == self.population
        why = {"epochs": self._epoch, "source": self._supply.source, "number": self._supply.begun}
        return Decision(Add(config, until=self._epoch), why)

    def _close_filling(self) -> None:
        self._filled = True  # a space with fewer configs than the population
        self._turn()

    def _expect(self, model: str, config: Mapping[str, Any]) -> None:
        self._slots.append(model)
        self._configs[model] = config
        self._ledger.expect(model, self._epoch)

    def _take(self, decision: Decision, fresh: str) -> Decision | None:
        """The decision, noted as under way; None if a person has taken its model over."""
        command = decision.command
        if isinstance(command, Clone):
            self._expect(fresh, {**self._configs[command.model], **command.changes})
            return decision
        assert isinstance(command, Resume)
        if not self._ledger.can_go_on(command.model, self._epoch):
            return None
        self._expect(command.model, self._configs[command.model])
        return decision

    def _turn(self) -> None:
        """Decide about the next generation, once all of this one have come."""
        if not self._filled or self._ledger.awaited or self._moves or self._epoch == self._terms.epochs:
            return
        at, self._epoch = self._epoch, min(self._epoch + self.interval, self._terms.epochs)
        members, self._slots = self._slots, []
        ranked = sorted(
            (self._costs[model], self._ledger.number(model), model)
            for model in members
            if model in self._costs and self._ledger.can_go_on(model, self._epoch)
        )
        failed = [model for model in members if self._costs.get(model) == math.inf]
        if ranked:
            self._plan([entry[2] for entry in ranked], failed, at)
        self._costs = {}

    def _plan(self, ranked: Sequence[str], failed: Sequence[str], at: int) -> None:
        count = min(math.ceil(len(ranked) * self.quantile), len(ranked) // 2)
        parents, losers = ranked[: max(1, count)], [*ranked[len(ranked) - count :], *failed]
        facts = {model: self._facts(model, rank, len(ranked) + len(failed)) for rank, model in enumerate(ranked, 1)}
        # Clones come first: their parents then still are where they are copied.
        for number, loser in enumerate(losers):
            key = (self._terms.seed, "search", "pbt", at, number)
            parent = parents[whole((*key, "parent"), len(parents))]
            self._moves.append(self._exploit(loser, parent, at, key, facts))
            if loser in facts:
                threshold = value_of(self._costs[ranked[-count - 1]], self._terms.mode)
                self._stops.append(Decision(Stop(loser), {**facts[loser], "epochs": at, "threshold": threshold}))
        self._moves += (
            Decision(Resume(model, until=self._epoch), {**facts[model], "epochs": self._epoch})
            for model in ranked[: len(ranked) - count]
        )

    def _exploit(
        self, loser: str, parent: str, at: int, key: tuple[int | str, ...], facts: Mapping[str, Any]
    ) -> Decision:
        old = self._configs[parent]
        changes = self._explorer.explore(old, key, self._source.constraint)
        changed = {name: [old[name], value] for name, value in changes.items()}
        why = {"parent": parent, "instead": loser, "changed": changed, **facts[parent], "epochs": self._epoch}
        return Decision(Clone(parent, changes, warm=True, optimizer="keep", at=at, until=self._epoch), why)

    def _facts(self, model: str, rank: int, seen: int) -> dict[str, Any]:
        return {"rank": rank, "seen": seen, "value": value_of(self._costs[model], self._terms.mode)}


def _check_perturb(perturb: Any) -> None:
    pair = isinstance(perturb, Sequence) and len(perturb) == 2
    numbers = pair and all(isinstance(factor, int | float) and math.isfinite(factor) for factor in perturb)
    if not (numbers and 0 < perturb[0] < 1 < perturb[1]):
        raise SpecError(f"PBT.perturb: {perturb!r} is not a factor below 1 and one above it, such as (0.8, 1.2)")
