"""Learners that cannot be trained in one pass are told so, each with the reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cerebro
from cerebro.training.fused import why_not_fused
from cerebro.training.fused.likeness import difference
from tests.training.fused_nets import CLASSES, learner, lives, mlp


class Windowed(nn.Module):
    """What `window` is cannot be seen in its printed form."""

    def __init__(self, window):
        super().__init__()
        self.window, self.layer = window, nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.layer(x[:, : self.window])


class Hoarding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.offset = nn.Linear(4, CLASSES), torch.zeros(4)


def hooked():
    net = mlp(4, 8, CLASSES)
    net[0].register_forward_hook(lambda *_: None)
    return net


def tied(is_tied):
    net = mlp(4, 4, 4)
    if is_tied:
        net[3].weight = net[0].weight
    return net


def frozen(is_frozen):
    net = mlp(4, 8, CLASSES)
    return net.requires_grad_(True) if not is_frozen else nn.Sequential(net[0].requires_grad_(False), *net[1:])


REASONS = {
    "batch_size is 16 and 32": lambda k: learner(mlp(4, 8, CLASSES), batch_size=16 * (k + 1)),
    "shuffle is True and False": lambda k: learner(mlp(4, 8, CLASSES), shuffle=not k),
    "drop_last is False and True": lambda k: learner(mlp(4, 8, CLASSES), drop_last=bool(k)),
    "0 (Linear).weight is float32 (8, 4) (4, 1) and float32 (9, 4) (4, 1)": lambda k: learner(mlp(4, 8 + k, CLASSES)),
    "the modules are not made of the same parts": lambda k: learner(mlp(4, *[8] * (k + 1), CLASSES)),
    "1 (ReLU) is a Tanh in another model": lambda k: learner(mlp(4, 8, CLASSES, activation=[nn.ReLU, nn.Tanh][k])),
    "Windowed.window differs": lambda k: learner(Windowed(4 - k)),
    "Hoarding.offset holds a tensor that is no buffer": lambda k: learner(Hoarding()),
    "0 (Linear) has hooks": lambda k: learner(hooked()),
    "0 (ParametrizedLinear) is parametrized": lambda k: learner(
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, CLASSES)))
    ),
    "the modules do not share the same parameters": lambda k: learner(tied(bool(k))),
    "0 (Linear).weight is float32 (8, 4) (4, 1) and float32 (8, 4) (4, 1), frozen": lambda k: learner(frozen(bool(k))),
    "one has metrics and the other has none": lambda k: learner(mlp(4, 8, CLASSES), **({"metrics": {}} if k else {})),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_a_pass_cannot_share_is_named(reason):
    assert why_not_fused(lives(REASONS[reason], 2)) == reason


def test_equal_metrics_and_losses_of_different_builds_are_measured_once():
    def build(k):
        return cerebro.metrics.accuracy("y"), lambda m, b, weight=0.5: weight * F.cross_entropy(m(b["x"]), b["y"])

    assert difference(build(0), build(1)) is None
    assert difference(cerebro.metrics.accuracy("y"), cerebro.metrics.accuracy("z"), "metric") == "metric.label"


def test_what_each_member_has_for_itself_may_differ():
    def build(k):
        net = mlp(4, 8, CLASSES, rate=0.1 * (k + 1))
        optimizer = [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop][k]
        return learner(
            net, 0.1**k, optimizer, loss=lambda m, b: k * F.cross_entropy(m(b["x"]), b["y"]), clip_norm=k + 1
        )

    assert why_not_fused(lives(build, 3)) is None
