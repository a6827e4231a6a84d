"""Random search and what it costs to ask."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import cerebro
from cerebro.commands import Add, Clone, Stop
from cerebro.control.procedure import Procedure, Result, Terms
from cerebro.control.procedures import ASHA, PBT, Grid, Hyperband, MedianStopping, Random, SuccessiveHalving
from cerebro.control.source import RandomSource
from cerebro.ids import canonical_json

SPACE = {"lr": cerebro.loguniform(1e-5, 1e-1), "drop": cerebro.uniform(0, 0.5), "width": [16, 32], "n": [1, 2, 3]}
LISTED = {"a": list(range(10)), "b": list(range(100))}

MANY: dict[str, Callable[[], Procedure]] = {
    "grid": lambda: Grid(LISTED),
    "random": lambda: Random(SPACE, models=1000),
    "successive-halving": lambda: SuccessiveHalving(SPACE, models=1000, max_epochs=27),
    "hyperband": lambda: Hyperband(SPACE, max_epochs=729),
    "asha": lambda: ASHA(SPACE, models=1000, max_epochs=27),
    "pbt": lambda: PBT(SPACE, population=1000, interval=9),
    "median": lambda: MedianStopping(SPACE, models=1000),
}


def asked(procedure: Random, seed: int = 0) -> list[Any]:
    procedure.begin(Terms(seed, "max", 9))
    found = list[Any]()
    while (decision := procedure.ask(f"m{len(found):03d}")) is not None:
        found.append(decision.command.config)  # type: ignore[union-attr]
    return found


def overhead_seconds(procedure: Procedure, epochs: int) -> tuple[float, int]:
    """The time spent in `ask` and `tell` per model that ended, and how many ended."""
    procedure.begin(Terms(0, "max", epochs))
    under_way, configs, spent, told = deque[tuple[str, int]](), list[Any](), 0.0, 0
    lanes = procedure.lanes or 16
    while True:
        while len(under_way) < lanes:
            start = time.perf_counter()
            decision = procedure.ask(fresh := f"m{len(configs):05d}")
            spent += time.perf_counter() - start
            if decision is None:
                break
            command = decision.command
            assert not isinstance(command, Stop)
            new = isinstance(command, Add | Clone)
            configs += [None] if new else []
            under_way.append((fresh if new else command.model, command.until or epochs))
        if not under_way:
            return spent / told, told
        model, until = under_way.popleft()
        result = Result(model, {}, until, (int(model[1:]) * 7919 + until * 31) % 997 / 997)
        start = time.perf_counter()
        procedure.tell(result)
        spent, told = spent + time.perf_counter() - start, told + 1


@pytest.mark.parametrize("name", MANY)
def test_deciding_takes_less_than_a_millisecond_at_a_thousand_models(name: str):
    seconds, told = overhead_seconds(MANY[name](), 729 if name == "hyperband" else 27)
    assert told >= 1000
    assert seconds < 1e-3


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
