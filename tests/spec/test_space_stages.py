"""A hyper-parameter by epoch: what may be said, what it is in a config, and what `build` is given."""

import json

import pytest

import cerebro
from cerebro.control.knobs import nested
from cerebro.control.procedures import Grid
from cerebro.report.wording import flat
from cerebro.spec.sampling import coordinates, sample
from cerebro.spec.space import check_space
from cerebro.spec.stages import at_epoch, stage_starts


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "is not a mapping of epochs and values"),
        ([0.1, 0.01], "is not a mapping of epochs and values"),
        ({0: 0.1}, "0 is not an epoch; give whole numbers from 1"),
        ({1: 0.1, "6": 0.01}, "'6' is not an epoch"),
        ({True: 0.1}, "True is not an epoch"),
        ({3: 0.1, 6: 0.01}, "there is no value for epoch 1, the first is for epoch 3"),
    ],
)
def test_stages_that_make_no_sense_are_refused(values, message):
    with pytest.raises(cerebro.SpecError, match=message):
        cerebro.stages(values)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": {"@0": 0.1}}, r"search\['lr'\]: '@0' beside '@0': names that begin with '@' are epochs"),
        ({"lr": {"@1": 0.1, "late": 0.01}}, r"search\['lr'\]: 'late' beside '@1', 'late'"),
        ({"lr": {"@2": 0.1}}, r"search\['lr'\]: '@2'"),
        ({"lr": cerebro.stages({1: 0.1, 2: []})}, r"search\['lr'\]\['@2'\]: the list is empty"),
        (cerebro.stages({1: 0.1, 2: 0.01}), "search: .* is by epoch as a whole"),
    ],
)
def test_a_space_whose_stages_make_no_sense_is_refused(space, message):
    with pytest.raises(cerebro.SpecError, match=message):
        check_space(space)


def test_a_staged_value_is_plain_data_whose_stages_have_names():
    space = {"lr": cerebro.stages({6: [0.01, 0.001], 1: 0.1}), "optimizer": {"l2": cerebro.stages({1: 0, 3: 1})}}
    first, second = Grid(space).configs()
    assert first == {"lr": {"@1": 0.1, "@6": 0.01}, "optimizer": {"l2": {"@1": 0, "@3": 1}}}
    assert json.loads(json.dumps(second)) == second
    assert flat(second) == {"lr.@1": 0.1, "lr.@6": 0.001, "optimizer.l2.@1": 0, "optimizer.l2.@3": 1}
    assert nested(flat(second)) == second


def test_build_is_given_the_values_of_the_epoch():
    config = {"lr": {"@1": 0.1, "@3": 0.01}, "net": {"kind": "mlp", "dropout": {"@1": {"p": 0.5}, "@5": {"p": 0.0}}}}
    given = {epoch: at_epoch(config, epoch) for epoch in range(1, 7)}
    assert [given[epoch]["lr"] for epoch in given] == [0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
    assert [given[epoch]["net"]["dropout"]["p"] for epoch in given] == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]
    assert stage_starts(config) == (1, 3, 5)
    assert at_epoch({"lr": 0.1}, 7) == {"lr": 0.1}


def test_each_stage_draws_on_a_stream_of_its_own():
    one = {"lr": cerebro.stages({1: cerebro.loguniform(1e-3, 1e-1), 4: cerebro.loguniform(1e-5, 1e-3)})}
    config = sample(one, (0, "search"))
    assert config is not None
    assert 1e-3 <= config["lr"]["@1"] < 1e-1
    assert 1e-5 <= config["lr"]["@4"] < 1e-3
    assert coordinates(one, config) == {("lr", "@1"): config["lr"]["@1"], ("lr", "@4"): config["lr"]["@4"]}
    more = {"lr": cerebro.stages({1: one["lr"]["@1"], 4: one["lr"]["@4"], 6: cerebro.uniform(0, 1)})}
    later = sample(more, (0, "search"))
    assert later is not None
    assert {name: later["lr"][name] for name in ("@1", "@4")} == config["lr"]


@pytest.mark.parametrize("search", [cerebro.Random, lambda space, models: cerebro.OptunaSearch(space, models=models)])
def test_samplers_propose_values_for_each_stage(search):
    space = {"lr": cerebro.stages({1: 0.1, 3: cerebro.loguniform(1e-4, 1e-1)})}
    check_space(space)
    procedure = search(space, models=3)
    assert "@3" in json.dumps(procedure.describe())
