"""Draws from a space: the right distributions, streams of their own, and coordinates that lead back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import cerebro
from cerebro.spec.sampling import assemble, coordinates, count_configs, describe_space, dimensions, path_text, sample
from cerebro.spec.space import Steps

DRAWS = 10_000
MIXED = {
    "lr": cerebro.loguniform(1e-5, 1e-1),
    "drop": cerebro.uniform(0, 0.5),
    "layers": cerebro.randint(1, 9),
    "width": cerebro.randint(1, 1025, log=True),
    "batch": [16, 32, 64],
    "opt": {"kind": "adam", "decay": [0.0, cerebro.loguniform(1e-6, 1e-2)]},
    "net": [{"kind": "mlp", "drop": cerebro.uniform(0, 1)}, {"kind": "cnn", "kernel": [3, 5]}, "linear"],
}


def draws(space: dict, name: str, count: int = DRAWS) -> list:
    found = [sample({name: space[name]}, (0, "search", number)) for number in range(count)]
    return [config[name] for config in found if config is not None]


@pytest.mark.parametrize(
    ("name", "distribution"),
    [("lr", stats.loguniform(1e-5, 1e-1)), ("drop", stats.uniform(0, 0.5))],
)
def test_floats_have_the_distributions_of_scipy(name: str, distribution):
    assert stats.kstest(draws(MIXED, name), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (cerebro.randint(1, 9), range(1, 9)),
        (cerebro.randint(0, 50, step=10), range(0, 50, 10)),
        ([16, 32, 64], (16, 32, 64)),
        (Steps(0.0, 0.25, 5), (0, 0.25, 0.5, 0.75, 1)),
    ],
)
def test_whole_numbers_and_choices_are_even(dimension, values):
    found = draws({"x": dimension}, "x")
    counts = [found.count(value) for value in values]
    assert sum(counts) == DRAWS
    assert stats.chisquare(counts).pvalue > 0.01


def test_whole_numbers_are_even_in_their_logarithm():
    found = np.asarray(draws({"x": cerebro.randint(1, 1025, log=True)}, "x"))
    assert found.min() == 1
    assert found.max() <= 1024
    # Of the integer n, the share is that of [n - 1/2, n + 1/2] in the logarithm, as in Optuna.
    edges = np.array([0.5, 2.5, 8.5, 32.5, 128.5, 512.5, 1024.5])
    expected = np.diff(np.log(edges)) / np.log(edges[-1] / edges[0]) * DRAWS
    assert stats.chisquare(np.histogram(found, edges)[0], expected).pvalue > 0.01


def test_dimensions_are_not_correlated():
    space = {name: MIXED[name] for name in ("lr", "drop", "layers", "width", "batch")}
    rows = [sample(space, (0, "search", number)) or {} for number in range(DRAWS)]
    columns = [np.argsort(np.argsort([row[name] for row in rows])) for name in space]
    worst = max(abs(np.corrcoef(one, other)[0, 1]) for one, other in itertools.combinations(columns, 2))
    assert worst < 0.05


def test_another_dimension_changes_no_draw():
    more = {"zeta": cerebro.uniform(0, 1), **MIXED, "alpha": [1, 2]}
    for number in range(100):
        config, larger = sample(MIXED, (1, number)), sample(more, (1, number))
        assert config is not None
        assert larger is not None
        assert config == {name: larger[name] for name in MIXED}


def test_the_order_of_the_dimensions_decides_nothing_but_the_order_of_the_config():
    turned = dict(reversed(MIXED.items()))
    config = sample(turned, (0,))
    assert config is not None
    assert config == sample(MIXED, (0,))
    assert list(config) == list(turned)


def test_draws_are_the_same_on_every_machine():
    space = {"lr": cerebro.loguniform(1e-5, 1e-1), "n": cerebro.randint(0, 1000)}
    assert sample(space, (0, "search", 0)) == {"lr": pytest.approx(0.000995377036325708, rel=1e-12), "n": 493}


def test_a_constraint_holds_and_its_refusals_do_not_shift_the_next_draw():
    first = [sample(MIXED, (0, number)) for number in range(50)]
    kept = [sample(MIXED, (0, number), lambda config: config["layers"] > 4) for number in range(50)]
    assert all(config is not None and config["layers"] > 4 for config in kept)
    assert [b for a, b in zip(first, kept, strict=True) if a and a["layers"] > 4] == [
        a for a in first if a and a["layers"] > 4
    ]


def test_a_space_that_is_all_but_empty_is_refused_with_its_share():
    with pytest.raises(cerebro.SpecError, match=r"constraint allowed 0 of 1,000 configs .* under 0\.1% of the space"):
        sample(MIXED, (0,), lambda config: False)


def test_when_every_config_is_taken_there_is_none():
    assert sample({"x": [1, 2]}, (0,), taken=lambda config: True) is None


@given(seed=st.integers(0, 10**6))
def test_coordinates_lead_back_to_their_config(seed: int):
    config = sample(MIXED, (seed,))
    assert config is not None
    found = coordinates(MIXED, config)
    assert found is not None
    assert assemble(MIXED, lambda path, dimension: found[path]) == config
    assert found.keys() <= dict(dimensions(MIXED)).keys()


@pytest.mark.parametrize(
    "change", [{"lr": 0.1}, {"lr": "x"}, {"batch": 17}, {"layers": 1.0}, {"layers": True}, {"net": {"kind": "mlp"}}]
)
def test_a_config_outside_the_space_has_no_coordinates(change: dict):
    config = sample(MIXED, (0,))
    assert config is not None
    assert coordinates(MIXED, {**config, **change}) is None
    assert coordinates(MIXED, {**config, "more": 1}) is None


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"a": [1, 2, 3], "b": {"c": cerebro.randint(0, 10, step=3)}, "d": "constant"}, 12),
        ({"net": ["linear", [1, 2], {"kernel": [3, 5], "depth": [1, 2]}]}, 6),
        ({"a": Steps(0.0, 0.25, 5), "b": [None]}, 5),
        ({"a": [1, 2], "b": [0, cerebro.uniform(0, 1)]}, None),
    ],
)
def test_the_configs_of_a_space_are_counted(space: dict, count: int | None):
    assert count_configs(space) == count


def test_paths_are_written_as_people_do():
    assert [path_text(path) for path, _ in dimensions({"opt": MIXED["opt"], "net": MIXED["net"]})] == [
        "opt.decay",
        "opt.decay[1]",
        "net",
        "net[0].drop",
        "net[1].kernel",
    ]


def test_a_description_tells_dimensions_from_constants():
    assert describe_space({"a": [1, [2, 3]], "b": cerebro.uniform(0, 1), "c": {"d": "x"}, "e": Steps(0, 1, 2)}) == {
        "a": ["choice", 1, ["value", [2, 3]]],
        "b": ["uniform", 0.0, 1.0],
        "c": {"d": "x"},
        "e": ["steps", 0, 1, 2],
    }
