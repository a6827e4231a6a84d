"""Random search: which configs come, and in which order."""

from typing import Any

import pytest

import cerebro
from cerebro.control.procedure import Terms
from cerebro.control.procedures import Random
from cerebro.control.source import RandomSource
from cerebro.ids import canonical_json

SPACE = {"lr": cerebro.loguniform(1e-5, 1e-1), "drop": cerebro.uniform(0, 0.5), "width": [16, 32], "n": [1, 2, 3]}


def asked(procedure: Random, seed: int = 0) -> list[Any]:
    procedure.begin(Terms(seed, "max", 9))
    found = list[Any]()
    while (decision := procedure.ask(f"m{len(found):03d}")) is not None:
        found.append(decision.command.config)  # type: ignore[union-attr]
    return found


def test_no_config_comes_twice_and_a_space_can_be_used_up():
    configs = asked(Random({"x": [1, 2, 3], "y": ["a", "b"]}, models=50))
    assert len(configs) == len(set(map(canonical_json, configs))) == 6


def test_more_models_do_not_change_the_first_ones():
    assert asked(Random(SPACE, models=20))[:5] == asked(Random(SPACE, models=5))


def test_another_seed_draws_other_configs():
    assert asked(Random(SPACE, models=5), seed=1) != asked(Random(SPACE, models=5))


def test_a_constraint_is_part_of_the_identity():
    plain = Random(SPACE, models=5)
    one = Random(SPACE, models=5, constraint=lambda config: config["lr"] < 0.01)
    other = Random(SPACE, models=5, constraint=lambda config: config["lr"] < 0.02)
    assert len({canonical_json(procedure.describe()) for procedure in (plain, one, other)}) == 3
    assert all(config["lr"] < 0.01 for config in asked(one))


def test_a_constraint_that_cannot_be_called_is_named():
    with pytest.raises(cerebro.SpecError, match="constraint='lr < 1' cannot be called"):
        RandomSource(SPACE, "lr < 1")  # type: ignore[arg-type]


def test_an_empty_space_is_told_when_the_first_config_is_asked_for():
    procedure = Random(SPACE, models=5, constraint=lambda config: False)
    procedure.begin(Terms(0, "max", 9))
    with pytest.raises(cerebro.SpecError, match=r"allowed 0 of 1,000 configs"):
        procedure.ask("m001")
