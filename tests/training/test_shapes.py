"""Whether a clone can be warm is known from two builds, without a worker."""

from functools import cache, partial

import pytest
import torch
import torchmetrics
from torch import nn

import cerebro
from cerebro.errors import ModelError
from cerebro.training.shapes import check_clone, optimizer_name, shapes
from tests.nets import cross_entropy

BEFORE = {"lr": 0.1, "width": 16, "optimizer": torch.optim.AdamW, "options": {}, "frozen": 0}


@cache
def backbone() -> nn.Module:
    """As users load one: once, and frozen."""
    return nn.Linear(5, 5).requires_grad_(False)


def build(config):
    module = nn.Sequential(backbone(), nn.Linear(5, config["width"]), nn.BatchNorm1d(config["width"]))
    for _ in range(config.get("depth", 1)):
        module.append(nn.Linear(config["width"], config["width"]))
    for parameter in list(module.parameters())[: config["frozen"]]:
        parameter.requires_grad_(False)
    return cerebro.Learner(
        module=module.to(config.get("dtype", torch.float32)),
        loss=cross_entropy,
        optimizer=partial(config["optimizer"], lr=config["lr"], **config["options"]),
        batch_size=4,
        metrics=config.get("metrics", {}),
    )


def test_parameters_and_buffers_are_told_by_name():
    found = shapes(build, BEFORE, None)
    assert found["1.weight"] == ("float32", (16, 5))
    assert found["2.num_batches_tracked"] == ("int64", ())
    assert optimizer_name(build, BEFORE, None) == "AdamW"


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
@pytest.mark.parametrize("changes", [{"lr": 0.3}, {"options": {"weight_decay": 0.3, "betas": (0.8, 0.9)}}])
def test_a_clone_with_other_settings_can_be_warm(changes, optimizer):
    check_clone(build, BEFORE, {**BEFORE, **changes}, None, optimizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "m003 has 1.weight (16, 5), the clone would have (8, 5): clone it cold, or change only what"),
        ({"dtype": torch.float64}, "m003 has 0.weight float32, the clone would have float64: clone it cold"),
        ({"depth": 2}, "m003 has no 4.weight, the clone would: clone it cold"),
        ({"depth": 0}, "m003 has 3.weight, the clone would not: clone it cold"),
    ],
)
def test_the_first_tensor_that_differs_is_named(changes, message):
    with pytest.raises(ModelError) as raised:
        check_clone(build, BEFORE, {**BEFORE, **changes}, None, "reset", "m003")
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": torch.optim.SGD}, "m003 was trained by AdamW, the clone would be by SGD"),
        ({"options": {"amsgrad": True}}, "the optimizer of m003 remembers exp_avg, exp_avg_sq, step of 1.weight"),
        ({"frozen": 4}, "1.weight has not the same place in the optimizer of m003 and that of the clone"),
    ],
)
def test_an_optimizer_that_cannot_be_kept_can_be_reset(changes, message):
    after = {**BEFORE, **changes}
    with pytest.raises(ModelError, match="optimizer='reset'") as raised:
        check_clone(build, BEFORE, after, None, "keep", "m003")
    assert str(raised.value).startswith(message)
    check_clone(build, BEFORE, after, None, "reset", "m003")


def test_looking_leaves_no_trace():
    seed, threads = torch.initial_seed(), torch.get_num_threads()
    before = torch.get_rng_state(), backbone().weight.clone()
    check_clone(build, BEFORE, {**BEFORE, "lr": 0.3}, None, "keep")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(backbone().weight, before[1])
    assert (torch.initial_seed(), torch.get_num_threads()) == (seed, threads)


def test_what_build_raises_is_the_callers_to_guard():
    with pytest.raises(KeyError, match="width"):
        shapes(build, {"lr": 0.1}, None)


def test_a_metric_without_its_label_is_refused():
    metrics = {"f1": torchmetrics.F1Score("multiclass", num_classes=3)}
    with pytest.raises(ModelError, match="the dataset has none"):
        shapes(build, {**BEFORE, "metrics": metrics}, None)
