"""Optuna's tree-structured Parzen estimator, that draws the same and asks less of each model so far.

Optuna finds out at every draw which dimensions come together, and takes the configs of all models apart again. Neither
changes once a model has ended, so that both are remembered here. This module loads Optuna.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Distributions = Mapping[str, BaseDistribution]
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class GroupedTPESampler(TPESampler):
    """Draws what `TPESampler(multivariate=True, group=True, constant_liar=False)` draws."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, group=False, constant_liar=False)
        self._together: list[Distributions] = []
        """Dimensions that no model so far had one of without the others."""
        self._known = set[frozenset[str]]()
        self._rows: dict[tuple[str, ...], dict[int, tuple[float, ...] | None]] = {}
        """For some dimensions, by the number of a model: its coordinates; None if it lacks one of them."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        for ended in study.get_trials(deepcopy=False, states=_ENDED):
            names = frozenset(ended.distributions)
            if names not in self._known:
                self._known.add(names)
                self._together = _split(self._together, ended.distributions)
        return {name: each for group in self._together for name, each in _open(group).items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = dict[str, Any]()
        for group in self._together:
            drawn |= super().sample_relative(study, trial, _open(group))
        return drawn

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, Any]:
        known = self._rows.setdefault(tuple(search_space), {})
        for ended in trials:
            if ended.number not in known:
                known[ended.number] = _coordinates(ended, search_space)
        rows = [row for ended in trials if (row := known[ended.number]) is not None]
        columns = np.asarray(rows, dtype=float).reshape(len(rows), len(search_space)).T.copy()
        return dict(zip(search_space, columns, strict=True))


def _split(groups: Sequence[Distributions], found: Distributions) -> list[Distributions]:
    """The groups, cut so that `found` has all of each or nothing; what is new in it is one more."""
    cut = list[Distributions]()
    for group in groups:
        cut.append({name: each for name, each in group.items() if name in found})
        cut.append({name: each for name, each in group.items() if name not in found})
    old = {name for group in groups for name in group}
    cut.append({name: found[name] for name in sorted(found) if name not in old})
    return [group for group in cut if group]


def _open(group: Distributions) -> dict[str, BaseDistribution]:
    """The dimensions that have more than one value."""
    return {name: each for name, each in group.items() if not each.single()}


def _coordinates(ended: FrozenTrial, dimensions: Distributions) -> tuple[float, ...] | None:
    parameters = ended.params
    if not dimensions.keys() <= parameters.keys():
        return None
    return tuple(each.to_internal_repr(parameters[name]) for name, each in dimensions.items())
