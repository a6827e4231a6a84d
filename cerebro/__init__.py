"""Cerebro: a data system for deep-learning model selection.

Names are loaded when they are first used, so that `import cerebro` (and `cerebro --help`) costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cerebro.errors import (
    CerebroError,
    DataError,
    EngineError,
    InternalError,
    ModelError,
    PlanError,
    SpecError,
    StoreError,
)

if TYPE_CHECKING:
    from cerebro.control.procedures import (
        ASHA,
        PBT,
        Grid,
        Hyperband,
        MedianStopping,
        OptunaSearch,
        Random,
        SuccessiveHalving,
    )
    from cerebro.plan.features import Features
    from cerebro.session import Experiment, connect, load
    from cerebro.spec.budget import Budget
    from cerebro.spec.learner import Learner
    from cerebro.spec.space import choice, loguniform, randint, uniform
    from cerebro.spec.stages import stages
    from cerebro.storage.dataset import open_dataset as open
    from cerebro.storage.ingest import ingest
    from cerebro.training import metrics

    __version__: str

__all__ = [
    "ASHA",
    "PBT",
    "Budget",
    "CerebroError",
    "DataError",
    "EngineError",
    "Experiment",
    "Features",
    "Grid",
    "Hyperband",
    "InternalError",
    "Learner",
    "MedianStopping",
    "ModelError",
    "OptunaSearch",
    "PlanError",
    "Random",
    "SpecError",
    "StoreError",
    "SuccessiveHalving",
    "__version__",
    "choice",
    "connect",
    "ingest",
    "load",
    "loguniform",
    "metrics",
    "open",
    "randint",
    "stages",
    "uniform",
]

_HOMES = {
    "Experiment": "cerebro.session",
    "ASHA": "cerebro.control.procedures.asha",
    "Budget": "cerebro.spec.budget",
    "Features": "cerebro.plan.features",
    "Grid": "cerebro.control.procedures.grid",
    "Hyperband": "cerebro.control.procedures.hyperband",
    "Learner": "cerebro.spec.learner",
    "MedianStopping": "cerebro.control.procedures.median_stopping",
    "OptunaSearch": "cerebro.control.procedures.optuna_search",
    "PBT": "cerebro.control.procedures.pbt",
    "Random": "cerebro.control.procedures.random",
    "SuccessiveHalving": "cerebro.control.procedures.successive_halving",
    "choice": "cerebro.spec.space",
    "connect": "cerebro.session",
    "ingest": "cerebro.storage.ingest",
    "load": "cerebro.session",
    "loguniform": "cerebro.spec.space",
    "randint": "cerebro.spec.space",
    "stages": "cerebro.spec.stages",
    "uniform": "cerebro.spec.space",
}


def __getattr__(name: str) -> Any:
    match name:
        case "__version__":
            value = _version()
        case "metrics":
            value = import_module("cerebro.training.metrics")
        case "open":
            value = import_module("cerebro.storage.dataset").open_dataset
        case _ if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        case _:
            raise AttributeError(f"module 'cerebro' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cerebro-select")
    except PackageNotFoundError:  # imported from a checkout that was not installed
        return "0+source"
