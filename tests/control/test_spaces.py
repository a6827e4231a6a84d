"""What every procedure takes as its space: lists, distributions of Optuna, and constraints between dimensions."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from optuna import distributions

import cerebro
from cerebro.control.procedure import Procedure, Terms
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
from cerebro.testing.procedure_conformance import Subject
from cerebro.testing.search_conformance import search

Make = Callable[..., Procedure]
SEARCHES: dict[str, Make] = {
    "random": lambda space, **more: Random(space, models=20, **more),
    "successive-halving": lambda space, **more: SuccessiveHalving(space, models=20, max_epochs=9, **more),
    "hyperband": lambda space, **more: Hyperband(space, max_epochs=9, **more),
    "asha": lambda space, **more: ASHA(space, models=20, max_epochs=9, **more),
    "median": lambda space, **more: MedianStopping(space, models=20, **more),
    "pbt": lambda space, **more: PBT(space, population=12, interval=2, **more),
    "tpe": lambda space, **more: OptunaSearch(space, models=20, **more),
    "asha-tpe": lambda space, **more: ASHA(OptunaSearch(space, **more), models=20, max_epochs=9),
    "median-random": lambda space, **more: MedianStopping(Random(space, models=20, **more)),
}
MIXED = {
    "lr": distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": distributions.FloatDistribution(0.0, 0.9, step=0.3),
    "width": distributions.IntDistribution(16, 64, step=16),
    "act": distributions.CategoricalDistribution(("relu", "gelu")),
    "layers": [1, 2, 3],
    "batch": (32, 64),
}
LISTED = {
    "momentum": (0.0, 0.3, 0.6, 0.3 * 3),
    "width": (16, 32, 48, 64),
    "act": ("relu", "gelu"),
    "layers": (1, 2, 3),
    "batch": (32, 64),
}
"""What a config of `MIXED` may hold."""


def configs_of(make: Callable[[], Procedure]) -> list[Mapping[str, Any]]:
    return list(search(Subject(make)).configs.values())


def is_small(config: Mapping[str, Any]) -> bool:
    return config["width"] * config["layers"] <= 64


@pytest.mark.parametrize("name", SEARCHES)
def test_lists_and_distributions_of_optuna_are_dimensions(name: str):
    configs = configs_of(lambda: SEARCHES[name](MIXED))
    assert len(configs) >= 12
    for config in configs:
        assert config.keys() == MIXED.keys()
        assert 1e-4 <= config["lr"] <= 1e-1
        assert all(config[name] in values for name, values in LISTED.items())
        assert isinstance(config["width"], int)
    assert len({config["lr"] for config in configs}) > 5
    assert {config["layers"] for config in configs} == {1, 2, 3}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_constraint_between_dimensions_holds(name: str):
    free, held = (
        configs_of(lambda more=more: SEARCHES[name](MIXED, **more)) for more in ({}, {"constraint": is_small})
    )
    assert not all(map(is_small, free))
    assert all(map(is_small, held))
    assert len(held) >= 12


def test_a_grid_leaves_out_what_is_not_allowed():
    space = {"width": [16, 32, 64], "layers": [1, 2, 3]}
    assert configs_of(lambda: Grid(space, constraint=is_small)) == [
        {"width": 16, "layers": 1},
        {"width": 16, "layers": 2},
        {"width": 16, "layers": 3},
        {"width": 32, "layers": 1},
        {"width": 32, "layers": 2},
        {"width": 64, "layers": 1},
    ]


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "median-random"])
def test_a_constraint_is_part_of_the_identity(name: str):
    one, other = (SEARCHES[name](MIXED, **more).describe() for more in ({}, {"constraint": is_small}))
    assert one != other


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Grid({"x": [1, 2]}, constraint=lambda config: False), "constraint allows no config of the grid"),
        (lambda: Grid({"x": [1, 2]}, constraint="x < 2"), "constraint='x < 2' cannot be called"),
        (lambda: ASHA({"x": [1, 2]}, models=2, max_epochs=2, constraint=3), "constraint=3 cannot be called"),
        (
            lambda: ASHA(OptunaSearch({"x": [1, 2]}), models=2, max_epochs=2, constraint=is_small),
            "says what optuna-tpe may propose: give it to that one",
        ),
        (
            lambda: MedianStopping(Random({"x": [1, 2]}, models=2), constraint=is_small),
            "says what random may propose: give it to that one",
        ),
    ],
)
def test_a_wrong_constraint_is_named(make: Callable[[], Procedure], complaint: str):
    with pytest.raises(cerebro.SpecError, match=complaint):
        make()


def test_a_constraint_that_allows_nothing_is_told_when_the_search_begins():
    procedure = ASHA(MIXED, models=5, max_epochs=9, constraint=lambda config: False)
    procedure.begin(Terms(0, "max", 9))
    with pytest.raises(cerebro.SpecError, match=r"allowed 0 of 1,000 configs"):
        procedure.ask("m001")
