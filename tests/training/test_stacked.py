"""Kernels that take all models of a pass at once end near to where each model ends alone."""

import pytest
import torch
from torch import nn

from cerebro.demo.posture import ConvLSTM
from cerebro.training.fused import fused_train_visit, fused_valid_visit
from cerebro.training.fused.stacked import RULES
from cerebro.training.randomness import set_generators
from cerebro.training.rewrites import deviation, parameters
from cerebro.training.train import valid_visit
from tests.training.fused_nets import CLASSES, learner, lives, mlp, order, rows, train_alone

pytestmark = pytest.mark.usefixtures("device")

VISITS, BATCH, ROWS = 14, 16, 130
"""So many visits are 126 steps."""


def conv1d():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3, stride=2, bias=False), nn.Tanh(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, CLASSES),
    )  # fmt: skip


def conv2d():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


NETS = {
    "mlp": (lambda: mlp(12, 9, CLASSES), (12,)),
    "conv1d": (conv1d, (3, 20)),
    "conv2d": (conv2d, (3, 8, 8)),
    "convlstm": (lambda: ConvLSTM(3, CLASSES, layers=1, width=8, window=20), (3, 20)),
}


@pytest.fixture
def _whole_products(monkeypatch):
    """With products in float32, where torch's default for convolutions on GPUs is TF32: of its three decimal places
    little is left after so many steps.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.usefixtures("_whole_products")
@pytest.mark.parametrize("name", NETS)
def test_after_more_than_a_hundred_steps_no_parameter_is_further_off_than_a_ten_thousandth(name):
    net, shape = NETS[name]
    columns = rows(ROWS, *shape)
    optimizer = lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)  # noqa: E731
    alone, group = (lives(lambda k: learner(net(), 1e-2 / (k + 1), optimizer, batch_size=BATCH), 4) for _ in range(2))
    for visit in range(VISITS):
        train_alone(alone, columns, visit)
        set_generators(("noise", visit))
        fused_train_visit(group, columns, order(columns, visit), exact=False)
    far = [deviation(parameters(one), parameters(other)) for one, other in zip(group, alone, strict=True)]
    assert max(far) < 1e-4
    found, expected = fused_valid_visit(group, columns, exact=False), [valid_visit(live, columns) for live in alone]
    for one, other in zip(found, expected, strict=True):
        assert one.rows == other.rows
        assert one.partials["loss"]["loss"] == pytest.approx(other.partials["loss"]["loss"], rel=1e-4)
    buffers = [dict(live.module.named_buffers()) for live in (group[3], alone[3])]
    assert all(torch.allclose(buffers[0][name].double(), buffers[1][name].double(), rtol=1e-4) for name in buffers[1])


def test_a_member_that_is_not_finite_does_not_reach_the_others():
    net, shape = NETS["conv2d"]
    columns = rows(64, *shape)
    sound, mixed = (lives(lambda k: learner(net(), batch_size=BATCH), 3) for _ in range(2))
    with torch.no_grad():
        mixed[1].module[0].weight.fill_(float("nan"))
    for group in (sound, mixed):
        set_generators(("noise", 0))
        fused_train_visit(group, columns, None, exact=False)
    assert [one.state.to_bytes() == other.state.to_bytes() for one, other in zip(sound, mixed, strict=True)] == [
        True, False, True,
    ]  # fmt: skip


def test_convolutions_are_computed_for_all_at_once(monkeypatch):
    seen = []
    for function in (torch.nn.functional.conv2d, torch.nn.functional.batch_norm):
        rule = RULES[function]

        def noted(group, function, args, kwargs, rule=rule):
            found = rule(group, function, args, kwargs)
            seen.append(found is not NotImplemented and not found.is_tuple)
            return found

        monkeypatch.setitem(RULES, function, noted)
    net, shape = NETS["conv2d"]
    fused_train_visit(lives(lambda k: learner(net()), 3), rows(16, *shape), None, exact=False)
    assert seen == [True, True, True]
