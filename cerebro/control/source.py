"""Where new configs come from: the half of a procedure that proposes; the other half decides how far to train.

`ASHA(space)` draws them at random; `ASHA(OptunaSearch(space))` has them proposed by what has been seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.control.procedure import Result, Terms
from cerebro.errors import SpecError
from cerebro.ids import canonical_json
from cerebro.spec.code import code_parts
from cerebro.spec.sampling import Constraint, check_constraint, count_configs, describe_space, sample
from cerebro.spec.space import Config, check_space


class Source(ABC):
    """Proposes configs; deterministic like the procedures that use it.

    Attributes:
        space: what it proposes from.
        constraint: what a config must satisfy besides; None: nothing.
    """

    space: Mapping[str, Any]
    constraint: Constraint | None

    @property
    @abstractmethod
    def name(self) -> str:
        """What decisions call it, such as `random`."""

    @abstractmethod
    def begin(self, terms: Terms) -> None:
        """Forget everything and start over.

        Raises:
            SpecError: its values do not fit the terms.
        """

    @abstractmethod
    def propose(self, number: int, model: str) -> Config | None:
        """The config of the new model called `model`, the `number`-th from 0; None: there are no more.

        Raises:
            SpecError: the space holds no config.
        """

    @abstractmethod
    def observe(self, result: Result) -> None:
        """Learn from a result, at any epoch and of any model, also one that a person added."""

    @abstractmethod
    def censor(self, model: str, epoch: int) -> None:
        """A person stopped `model`; that is not a bad score."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Its declared values as JSON."""


@dataclass
class RandomSource(Source):
    """Configs drawn at random, no config twice.

    The config of the n-th model is a function of the seed, n, and the configs before it that would repeat.

    Raises:
        SpecError: the space or the constraint is none.
    """

    space: Mapping[str, Any]
    constraint: Constraint | None = None
    _seed: int = field(default=0, init=False, repr=False, compare=False)
    _seen: set[str] = field(default_factory=set[str], init=False, repr=False, compare=False)
    _exhausted: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_space(self.space)
        check_constraint(self.constraint)

    @property
    def name(self) -> str:
        return "random"

    def begin(self, terms: Terms) -> None:
        self._seed, self._seen, self._exhausted = terms.seed, set(), False

    def propose(self, number: int, model: str) -> Config | None:
        if self._exhausted or len(self._seen) == count_configs(self.space):
            return None
        key = (self._seed, "search", number)
        config = sample(self.space, key, self.constraint, lambda drawn: canonical_json(drawn) in self._seen)
        if config is None:
            self._exhausted = True
            return None
        self._seen.add(canonical_json(config))
        return config

    def observe(self, result: Result) -> None:
        """Learns nothing: draws do not depend on results."""

    def censor(self, model: str, epoch: int) -> None:
        """Learns nothing: draws do not depend on results."""

    def describe(self) -> dict[str, Any]:
        constraint = None if self.constraint is None else code_parts(self.constraint)
        return {"name": self.name, "space": describe_space(self.space), "constraint": constraint}


def as_source(search: Any, constraint: Constraint | None = None) -> Source:
    """The source itself, or random draws from a plain space that `constraint` allows.

    Raises:
        SpecError: neither a source nor a space; or a source and a constraint, which is the source's own business.
    """
    if not isinstance(search, Source):
        return RandomSource(search, constraint)
    if constraint is not None:
        raise SpecError(f"search: constraint={constraint!r} says what {search.name} may propose: give it to that one")
    return search


class Supply:
    """The models that a procedure may still begin: a source with an end."""

    def __init__(self, source: Source, models: int | None) -> None:
        self.source = source.name
        self.begun = 0
        self._source, self._models, self._exhausted = source, models, False

    def take(self, model: str) -> Config | None:
        """The config of the next new model; None: there are no more."""
        if self._exhausted or self.begun == self._models:
            return None
        config = self._source.propose(self.begun, model)
        if config is None:
            self._exhausted = True
        else:
            self.begun += 1
        return config
