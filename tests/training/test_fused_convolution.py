"""Convolutions of all members at once: only where they have the bits of each member alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cerebro.training.fused import convolution
from tests.training.fused_nets import CLASSES, check_same, learner, lives, rows, train_fused

pytestmark = pytest.mark.usefixtures("as_workers")

ACROSS = {1: (nn.Conv1d, nn.AdaptiveAvgPool1d, 17), 2: (nn.Conv2d, nn.AdaptiveAvgPool2d, 7)}


@pytest.fixture
def _at_once(monkeypatch):
    """Whatever is equal is computed at once, whether that is quicker or not."""
    monkeypatch.setattr(convolution, "_is_better", lambda trials: all(trial.are_equal for trial in trials))
    monkeypatch.setattr(convolution, "FINDINGS", convolution.Findings(convolution._batched, convolution.Batched))


def net(dimensions, before, channels, kernel, **more):
    conv, pool, _ = ACROSS[dimensions]
    return nn.Sequential(
        conv(before, channels, kernel, padding=kernel // 2), nn.ReLU(), conv(channels, channels, kernel, **more),
        nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(channels, CLASSES),
    )  # fmt: skip


@pytest.mark.usefixtures("_at_once")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    dimensions=st.sampled_from([1, 2]),
    before=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 8, 16, 20, 24]),
    kernel=st.integers(1, 5),
    members=st.integers(2, 5),
    batch_size=st.integers(1, 17),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    is_grouped=st.booleans(),
    has_bias=st.booleans(),
)
def test_convolutions_of_any_shape_end_with_the_same_bits(
    dimensions, before, channels, kernel, members, batch_size, stride, dilation, is_grouped, has_bias
):
    more = {"stride": stride, "dilation": dilation, "padding": kernel, "bias": has_bias}
    groups = channels if is_grouped else 1
    lengths = [ACROSS[dimensions][2]] * dimensions

    def build(k):
        built = net(dimensions, before, channels, kernel, groups=groups, **more)
        return learner(built, 1e-3 * (k + 1), batch_size=batch_size)

    check_same(build, members, rows(3 * batch_size + 1, before, *lengths))


def test_channels_that_fill_vectors_are_convolved_at_once(monkeypatch):
    monkeypatch.setattr(convolution, "_is_better", lambda trials: all(trial.are_equal for trial in trials))
    findings = convolution.Findings(convolution._batched, convolution.Batched)
    monkeypatch.setattr(convolution, "FINDINGS", findings)
    group = lives(lambda k: learner(net(1, 16, 16, 5)), 3)
    train_fused(group, rows(64, 16, 40), 0)
    assert len(findings._found) == 2
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert all(found and found.output and found.gradients for found in findings._found.values())


def test_a_batch_that_comes_once_in_a_visit_is_not_worth_trials(monkeypatch):
    findings = convolution.Findings(convolution._batched, convolution.Batched)
    monkeypatch.setattr(convolution, "FINDINGS", findings)
    train_fused(lives(lambda k: learner(net(1, 8, 8, 3)), 2), rows(16 + 5, 8, 20), 0)
    assert not findings._found


def test_padding_by_name_and_single_samples_are_computed_member_by_member():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.last = nn.Conv1d(4, 8, 3, padding="same"), nn.Linear(8, CLASSES)

        def forward(self, value):
            first = F.conv1d(value[0], self.same.weight, self.same.bias, padding=1)
            return self.last(self.same(value).mean(2) + first.mean(1))

    check_same(lambda k: learner(Odd(), 1e-2 / (k + 1)), 3, rows(40, 4, 11))
