"""What a space may hold, and what its grid is."""

import pytest
from optuna import distributions
from sklearn.model_selection import ParameterGrid

import cerebro
from cerebro.control.procedures import Grid
from cerebro.ids import canonical_json
from cerebro.spec.space import Choice, LogUniform, RandInt, Steps, Uniform, as_dimension, check_space, grid


@pytest.mark.parametrize(
    ("given", "dimension"),
    [
        (distributions.FloatDistribution(0.5, 2.0), Uniform(0.5, 2.0)),
        (distributions.FloatDistribution(1e-5, 1e-1, log=True), LogUniform(1e-5, 1e-1)),
        (distributions.FloatDistribution(0.0, 1.0, step=0.25), Steps(0.0, 0.25, 5)),
        (distributions.FloatDistribution(0.5, 0.5), 0.5),
        (distributions.IntDistribution(1, 8), RandInt(1, 9)),
        (distributions.IntDistribution(16, 64, step=16), RandInt(16, 65, 16)),
        (distributions.IntDistribution(1, 1024, log=True), RandInt(1, 1025, 1, True)),
        (distributions.CategoricalDistribution(["relu", None]), Choice(("relu", None))),
        ([1, 2], Choice((1, 2))),
        (3, 3),
    ],
)
def test_distributions_of_optuna_are_taken(given, dimension):
    assert as_dimension(given) == dimension
    check_space({"x": given})


def test_a_retired_distribution_is_refused():
    retired = distributions.UniformDistribution if hasattr(distributions, "UniformDistribution") else None
    if retired is None:
        pytest.skip("this Optuna has no other distributions")
    with pytest.warns(FutureWarning), pytest.raises(cerebro.SpecError, match="Float, Int or CategoricalDistribution"):
        check_space({"x": retired(0.0, 1.0)})


@pytest.mark.parametrize(
    "space",
    [
        {"a": [1, 2, 3], "b": ["x", "y"], "c": [0.1]},
        {"a": [True, False], "b": [None, 1], "c": [[1, 2], [3]]},
    ],
)
def test_the_grid_is_the_one_of_scikit_learn(space: dict):
    assert sorted(map(canonical_json, Grid(space).configs())) == sorted(map(canonical_json, ParameterGrid(space)))


def test_a_conditional_sub_space_is_multiplied_only_where_it_is_chosen():
    space = {"net": ["mlp", {"kind": "cnn", "kernel": [3, 5]}], "lr": [0.1, 0.2]}
    nets = ["mlp", {"kind": "cnn", "kernel": 3}, {"kind": "cnn", "kernel": 5}]
    assert list(grid(space)) == [{"net": net, "lr": lr} for net in nets for lr in (0.1, 0.2)]


@pytest.mark.parametrize("value", [cerebro.uniform(0, 1), [0.0, cerebro.uniform(0, 1)], cerebro.randint(0, 9)])
def test_a_grid_needs_its_values_written_out(value):
    with pytest.raises(cerebro.SpecError, match=r"search\['lr'\]: Grid needs a list of values"):
        Grid({"lr": value})


def test_a_grid_with_a_repeated_value_is_refused():
    with pytest.raises(cerebro.SpecError, match=r"the config \{'lr': 0.1\} comes twice"):
        Grid({"lr": [0.1, 0.2, 0.1]})


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: cerebro.loguniform(0, 1), "a logarithm needs more than 0"),
        (lambda: cerebro.uniform(2, 1), "low must be the smaller"),
        (lambda: cerebro.randint(0, 2.5), "must both be integers"),
        (lambda: cerebro.randint(0, 9, step=0), "step is 0"),
        (lambda: cerebro.randint(0, 9, log=True), "with log=True low is at least 1"),
        (lambda: cerebro.choice([]), "has no options"),
        (lambda: check_space({"a": []}), "the list is empty"),
        (lambda: check_space({"a": object()}), "a config holds numbers"),
        (lambda: check_space({}), "is not a space"),
    ],
)
def test_what_is_no_dimension_is_named(make, complaint: str):
    with pytest.raises(cerebro.SpecError, match=complaint):
        make()
