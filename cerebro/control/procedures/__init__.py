"""The procedures, one file each."""

from cerebro.control.procedures.asha import ASHA
from cerebro.control.procedures.grid import Grid
from cerebro.control.procedures.hyperband import Hyperband
from cerebro.control.procedures.median_stopping import MedianStopping
from cerebro.control.procedures.optuna_search import OptunaSearch
from cerebro.control.procedures.pbt import PBT
from cerebro.control.procedures.random import Random
from cerebro.control.procedures.successive_halving import SuccessiveHalving

__all__ = [
    "ASHA",
    "PBT",
    "Grid",
    "Hyperband",
    "MedianStopping",
    "OptunaSearch",
    "Random",
    "SuccessiveHalving",
]
