"""Every procedure of the package does what every procedure must do."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cerebro
from cerebro.control.procedure import Procedure
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
from cerebro.testing import search_conformance
from cerebro.testing.procedure_conformance import CHECKS, Subject, check_schedule

SPACE = {
    "lr": cerebro.loguniform(1e-5, 1e-1),
    "width": [16, 32, 64],
    "net": [{"kind": "mlp", "drop": cerebro.uniform(0, 0.5)}, {"kind": "cnn", "kernel": cerebro.randint(3, 8)}],
}
LISTED = {"lr": [0.1, 0.01, 0.001], "width": [16, 32, 64], "drop": [0.0, 0.5]}

OWN: dict[str, Callable[[], Procedure]] = {
    "grid": lambda: Grid(LISTED),
    "random": lambda: Random(SPACE, models=12, constraint=is_small),
    "random-used-up": lambda: Random(LISTED, models=40),
    "successive-halving": lambda: SuccessiveHalving(SPACE, models=14, max_epochs=9),
    "successive-halving-used-up": lambda: SuccessiveHalving(LISTED, models=40, max_epochs=9, eta=2),
    "hyperband": lambda: Hyperband(SPACE, max_epochs=9),
    "hyperband-used-up": lambda: Hyperband(LISTED, max_epochs=9),
    "asha": lambda: ASHA(SPACE, models=30, max_epochs=9),
    "asha-two": lambda: ASHA(SPACE, models=20, max_epochs=8, eta=2, min_epochs=2, lanes=3),
    "pbt": lambda: PBT(SPACE, population=8, interval=2),
    "pbt-named": lambda: PBT(SPACE, population=5, interval=4, explore=("width", "net"), quantile=0.4, resample=0.0),
    "median": lambda: MedianStopping(Random(SPACE, models=15)),
    "median-space": lambda: MedianStopping(SPACE, models=15, min_epochs=3, startup=2),
}
OPTUNA: dict[str, Callable[[], Procedure]] = {
    **{
        sampler: lambda sampler=sampler: OptunaSearch(SPACE, models=14, sampler=sampler)
        for sampler in ("tpe", "cmaes", "nsgaii", "random")
    },
    "asha-tpe": lambda: ASHA(OptunaSearch(SPACE), models=20, max_epochs=9),
    "median-tpe": lambda: MedianStopping(OptunaSearch(SPACE), models=12),
    "pbt-tpe": lambda: PBT(OptunaSearch(SPACE), population=4, interval=3),
    "tpe-used-up": lambda: OptunaSearch({"width": [1, 2, 3, 4]}, models=9),
}


def is_small(config: dict) -> bool:
    return config["width"] * config["lr"] < 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OWN)
def test_own_procedures_conform(name: str, check: Callable[[Subject], None]):
    check(Subject(OWN[name]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OPTUNA)
def test_optuna_conforms(name: str, check: Callable[[Subject], None]):
    check(Subject(OPTUNA[name], schedules=1))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS[:3], ids=lambda check: check.__name__)
def test_gaussian_processes_conform(check: Callable[[Subject], None]):
    check(Subject(lambda: OptunaSearch(SPACE, models=12, sampler="gp"), schedules=1))


@pytest.mark.parametrize("name", OWN)
@settings(max_examples=25, deadline=None)
@given(schedule=st.lists(st.integers(0, 255), max_size=200))
def test_any_order_of_endings_is_survived(name: str, schedule: list[int]):
    check_schedule(Subject(OWN[name]), schedule)


@pytest.mark.parametrize("check", search_conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OWN | OPTUNA)
def test_every_procedure_conforms_in_a_search_on_the_simulated_engine(name: str, check: Callable[[Subject], None]):
    check(Subject((OWN | OPTUNA)[name]))
