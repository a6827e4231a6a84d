"""Rungs: the epochs at which models are compared, and the rounds of successive halving."""

from bisect import insort
from collections import deque
from collections.abc import Mapping
from typing import Any

from cerebro.commands import Add, Resume
from cerebro.control.procedure import Decision, Result
from cerebro.control.procedures.checks import cost, value_of
from cerebro.control.procedures.ledger import Ledger, News
from cerebro.control.source import Supply


def rung_epochs(min_epochs: int, max_epochs: int, eta: int) -> tuple[int, ...]:
    """The epochs of the rungs: `max_epochs` divided by powers of `eta`, from the smallest not below `min_epochs`.

    As the brackets of Hyperband do it, so that the top rung is `max_epochs` whatever its divisors; with
    `max_epochs = min_epochs * eta ** s` they are the rungs of the papers.
    """
    rungs = [max_epochs]
    while (epochs := max_epochs // eta ** len(rungs)) >= min_epochs:
        rungs.append(epochs)
    return tuple(reversed(rungs))


class Bracket:
    """Successive halving (Karnin et al., ICML 2013; Jamieson and Talwalkar, AISTATS 2016) of some models.

    All models of a rung are waited for; of `models`, `models // eta ** i` go on to rung i, at least one.
    """

    def __init__(self, models: int, epochs: tuple[int, ...], eta: int, mode: str, names: Mapping[str, Any]) -> None:
        self._epochs, self._eta, self._mode, self._names = epochs, eta, mode, names
        self._models = models
        self._begun = 0
        self._ledger = Ledger()
        self._level = 0
        self._seen = 0
        self._ranked: list[tuple[float, int, str]] = []
        self._chosen: deque[tuple[str, dict[str, Any]]] = deque()

    def ask(self, fresh: str, supply: Supply) -> Decision | None:
        """The next model to begin or to promote; None while a rung is waited for, and at the end."""
        if self._begun < self._models:
            config = supply.take(fresh)
            if config is not None:
                self._begun += 1
                return self._begin(fresh, config, supply)
            self._models = self._begun  # the space is used up: fewer models, and shares of these
            self._close()
        return self._promote()

    def tell(self, result: Result) -> None:
        """Take in the result of one of its models; those of others are ignored."""
        news = self._ledger.settle(result)
        if news is News.CAME:
            self._seen += 1
            if (score := cost(result.value, self._mode)) < float("inf"):
                insort(self._ranked, (score, self._ledger.number(result.model), result.model))
        if news is not News.OTHER:
            self._close()

    def censor(self, model: str) -> None:
        """A person stopped one of its models: the others go on without it."""
        if model in self._ledger and self._ledger.censor(model):
            self._close()

    def _begin(self, fresh: str, config: Mapping[str, Any], supply: Supply) -> Decision:
        epochs = self._epochs[0]
        self._ledger.expect(fresh, epochs)
        why = {**self._names, "rung": 0, "epochs": epochs, "models": self._models, "source": supply.source}
        return Decision(Add(config, until=epochs), why)

    def _promote(self) -> Decision | None:
        while self._chosen:
            model, why = self._chosen.popleft()
            epochs = self._epochs[self._level]
            if self._ledger.can_go_on(model, epochs):
                self._ledger.expect(model, epochs)
                return Decision(Resume(model, until=epochs), why)
            self._close()  # the last one chosen may have been stopped meanwhile
        return None

    def _close(self) -> None:
        """Choose who goes on, once nothing of this rung is left to begin, to promote or to wait for."""
        if self._begun < self._models or self._chosen or self._ledger.awaited or self._level + 1 == len(self._epochs):
            return
        self._level += 1
        epochs, wanted = self._epochs[self._level], max(1, self._models // self._eta**self._level)
        able = [entry for entry in self._ranked if self._ledger.can_go_on(entry[2], epochs)][:wanted]
        ranks = {entry: rank for rank, entry in enumerate(self._ranked, 1)}
        for entry in able:
            why = {
                **self._names,
                "rung": self._level,
                "epochs": epochs,
                "rank": ranks[entry],
                "seen": self._seen,
                "threshold": value_of(able[-1][0], self._mode),
                "value": value_of(entry[0], self._mode),
            }
            self._chosen.append((entry[2], why))
        self._ranked, self._seen = [], 0
