"""Which hyper-parameters matter: how much of what the models differ in each of them explains."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from cerebro.control.procedures.optuna_search import load_optuna, new_study
from cerebro.errors import SpecError, StoreError
from cerebro.ids import canonical_json
from cerebro.report.leaderboard import ENDED_BADLY, deciding_value, leaderboard
from cerebro.storage.store import ExperimentFolder

MODELS_MIN = 4
"""Fewer models say nothing about what they differ in."""


def importance(folder: ExperimentFolder) -> dict[str, float]:
    """By dimension, such as `optimizer.lr`, its share of the variance of the deciding metric, the largest first.

    Over the models that have come to the last epoch, by the functional ANOVA (Hutter et al., ICML 2014) of Optuna.
    Numbers count by their rank among these models: a learning rate that was drawn on a logarithmic scale is not judged
    on a linear one. Left out are dimensions that only some of the models have, and those in which none differ.

    Raises:
        SpecError: Optuna or scikit-learn is not installed.
        StoreError: fewer than four models have come to the last epoch, or they do not differ.
    """
    optuna = load_optuna("importance")
    with closing(folder.reader()) as reader:
        experiment, rows = reader.experiment(), leaderboard(reader)
    ended = [row for row in rows if row["epochs"] >= experiment["epochs"] and row["status"] not in ENDED_BADLY]
    values = [deciding_value(row, experiment["metric"]) for row in ended]
    scored = [(row["config"], value) for row, value in zip(ended, values, strict=True) if value is not None]
    _check_enough([value for _, value in scored], experiment["epochs"])
    columns = _columns([_flat(config) for config, _ in scored])
    if not columns:
        raise StoreError(
            "importance: the models at the last epoch do not differ in any dimension that all of them have"
        )
    study = new_study(experiment["mode"])
    distributions = {name: _distribution(optuna, column) for name, column in columns.items()}
    for number, (_, value) in enumerate(scored):
        parameters = {name: column[number] for name, column in columns.items()}
        study.add_trial(optuna.trial.create_trial(value=value, params=parameters, distributions=distributions))
    return _evaluated(optuna, study)


def _check_enough(values: Sequence[float], epochs: int) -> None:
    if len(values) < MODELS_MIN:
        raise StoreError(
            f"importance: {len(values)} models have come to epoch {epochs} with a value, and {MODELS_MIN} are needed"
        )
    if min(values) == max(values):
        raise StoreError(
            "importance: the models at the last epoch all have the same value: there is nothing to explain"
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config without nesting: `{"optimizer": {"lr": 1}}` becomes `{"optimizer.lr": 1}`."""
    found = dict[str, Any]()
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _columns(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[int | str]]:
    """By dimension that all configs have, and in which they differ: ranks of numbers, other values as text."""
    everywhere = [name for name in configs[0] if all(name in config for config in configs)]
    columns = {name: _column([config[name] for config in configs]) for name in everywhere}
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


def _column(values: Sequence[Any]) -> list[int | str]:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return [canonical_json(value) for value in values]
    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [ranks[value] for value in values]


def _distribution(optuna: Any, column: Sequence[int | str]) -> Any:
    if isinstance(column[0], int):
        return optuna.distributions.IntDistribution(0, max(column))
    return optuna.distributions.CategoricalDistribution(sorted(set(column)))


def _evaluated(optuna: Any, study: Any) -> dict[str, float]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
            return {name: float(share) for name, share in found.items()}
    except ImportError as error:
        raise SpecError("importance: scikit-learn is not installed: pip install 'cerebro-select[optuna]'") from error
