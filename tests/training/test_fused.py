"""Models trained in one pass over shared batches end with the very bits that each has alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cerebro.demo.posture import ConvLSTM
from cerebro.training.fused import NotFusedError, bind_together, fused_train_visit
from tests.training.fused_nets import (
    CLASSES,
    check_same,
    check_same_states,
    learner,
    lives,
    mlp,
    rows,
    train_alone,
    train_fused,
)

pytestmark = pytest.mark.usefixtures("device")

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "amsgrad": lambda p, lr: torch.optim.AdamW(p, lr, amsgrad=True),
}
ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.LeakyReLU]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    hidden=st.lists(st.integers(1, 40), max_size=3),
    features=st.integers(1, 20),
    members=st.integers(2, 6),
    batch_size=st.integers(1, 33),
    count=st.integers(1, 40),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_mlps_of_any_shape_end_with_the_same_bits(hidden, features, members, batch_size, count, optimizer, activation):
    def build(k):
        net = mlp(features, *hidden, CLASSES, activation=activation)
        return learner(net, 1e-3 * (k + 1), OPTIMIZERS[optimizer], batch_size=batch_size)

    check_same(build, members, rows(count, features))


def test_five_hundred_steps_and_more_leave_no_trace_of_the_group():
    columns = rows(16 * 130, 12)
    check_same(lambda k: learner(mlp(12, 32, 16, CLASSES), 1e-2 / (k + 1)), 8, columns, visits=4)


@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3), (0.1, 0.5, 0.1)])
def test_dropout_draws_what_each_would_draw_alone(rates):
    check_same(lambda k: learner(mlp(10, 24, 24, CLASSES, rate=rates[k])), len(rates), rows(70, 10))


def regression(module, batch):
    return F.mse_loss(module(batch["x"]).squeeze(1), batch["y"].float())


def test_a_single_output_and_a_last_batch_of_one_row():
    check_same(lambda k: learner(mlp(5, 8, 1), loss=regression, metrics={}), 4, rows(33, 5))


class Residual(nn.Module):
    """Values that are used several times, joined, cut and scaled."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(10, 32), nn.Linear(32, 32), nn.LayerNorm(32)
        self.scale, self.last = nn.Parameter(torch.ones(32)), nn.Linear(48, CLASSES)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        hidden = F.relu(self.first(x), inplace=True)
        hidden = hidden + torch.tanh(self.second(hidden)) * self.scale + hidden
        hidden = self.norm(hidden) + hidden
        return self.last(torch.cat([hidden, F.gelu(hidden[:, :16])], dim=1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(3, 8), nn.Linear(8, CLASSES)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.last(self.encoder(self.embed(x.transpose(1, 2)[:, :6])).mean(dim=1))


def frozen(k):
    net = mlp(10, 16, 16, CLASSES)
    net[0].requires_grad_(False)
    return learner(net)


def scheduled(k):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01 * (1 + k % 2), total_steps=50)

    return learner(mlp(10, 16, CLASSES), schedule=schedule, clip_norm=0.1 * (k + 1))


def penalised(k):
    def loss(module, batch):
        weights = sum(parameter.square().sum() for parameter in module.parameters())
        return F.cross_entropy(module(batch["x"]), batch["y"]) + 0.01 * weights

    return learner(mlp(10, 16, CLASSES), loss=loss)


def smoothed(k):
    def loss(module, batch):
        return F.cross_entropy(module(batch["x"]), batch["y"], label_smoothing=0.1 * k)

    return learner(mlp(10, 16, CLASSES), loss=loss)


FLAT = {
    "residual": lambda k: learner(Residual(), 1e-2),
    "frozen": frozen,
    "scheduled and clipped": scheduled,
    "penalised": penalised,
    "another loss for each": smoothed,
    "another optimizer for each": lambda k: learner(mlp(10, 16, CLASSES), 1e-2, list(OPTIMIZERS.values())[k]),
}
SIGNALS = {
    "cnn with batch norm": lambda k: learner(
        nn.Sequential(
            nn.Conv1d(3, 6, 5),
            nn.BatchNorm1d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Linear(48, 4),
        ),
        optimizer=OPTIMIZERS["momentum"],
    ),
    "cnn and lstm": lambda k: learner(ConvLSTM(3, CLASSES, layers=2, width=8, window=15)),
    "attention": lambda k: learner(Attention()),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_net_of_one_kind_ends_with_the_same_bits(name):
    check_same(FLAT[name], 4, rows(49, 10))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_net_on_signals_ends_with_the_same_bits(name):
    check_same(SIGNALS[name], 3, rows(39, 3, 20))


def test_a_member_that_diverges_fails_alone():
    def build(k):
        return learner(mlp(6, 8, CLASSES), 1e30 if k == 1 else 1e-2, torch.optim.SGD)

    columns = rows(64, 6)
    alone, group = lives(build, 3), lives(build, 3)
    expected, found = train_alone(alone, columns, 0), train_fused(group, columns, 0)
    assert list(map(repr, found)) == list(map(repr, expected))
    assert [isinstance(result, Exception) for result in found] == [False, True, False]
    check_same_states([group[0], group[2]], [alone[0], alone[2]])


def test_a_group_goes_on_without_a_member_and_with_one_that_was_loaded():
    def build(k):
        return learner(mlp(6, 8, CLASSES, rate=0.2), 1e-2 / (k + 1))

    columns = rows(40, 6)
    alone, group = lives(build, 4), lives(build, 4)
    train_alone(alone, columns, 0)
    train_fused(group, columns, 0)
    group[3].state.load(memoryview(alone[3].state.to_bytes()))
    for live in (alone, group):
        del live[1]
    train_alone(alone, columns, 1)
    train_fused(group, columns, 1)
    check_same_states(group, alone)


def test_states_that_are_bound_together_stay_so_through_loading_and_training(device):
    if device.type != "cpu":
        pytest.skip("there a state is a copy in the host's memory")
    group = lives(lambda k: learner(mlp(6, 8, CLASSES)), 3)
    columns = rows(20, 6)
    train_fused(group, columns, 0)
    home = group[0].state.bound().untyped_storage().data_ptr()
    for live in group:
        live.state.load(memoryview(live.state.to_bytes()))
    bind_together(group)
    train_fused(group, columns, 1)
    assert {live.state.bound().untyped_storage().data_ptr() for live in group} == {home}


class Careful(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)

    def forward(self, x):
        scores = self.layer(x)
        return scores * 2 if scores.sum() > 0 else scores


class Marked(Careful):
    def forward(self, x):
        self.last = self.layer(x)
        return self.last


class Numpy(Careful):
    def forward(self, x):
        return self.layer(x) * float(self.layer.weight.detach().cpu().numpy().max())


@pytest.mark.parametrize("net", [Careful, Marked, Numpy])
def test_what_cannot_be_computed_for_all_at_once_is_said(net):
    group = lives(lambda k: learner(net()), 6)
    with pytest.raises(NotFusedError):
        fused_train_visit(group, rows(64, 6), None)
