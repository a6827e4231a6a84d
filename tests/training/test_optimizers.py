"""Optimizers run torch's fused kernel where there is one, and nobody chose otherwise."""

from functools import partial

import pytest
import torch
from torch import nn

from cerebro.training.learners import describe
from tests.training.fused_nets import learner, lives, mlp, rows, train_alone

KERNELS = [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad]
NONE = [torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adadelta, torch.optim.Adamax]
CHOSEN = [{"fused": False}, {"foreach": True}]


def described(optimizer, net=None):
    (live,) = lives(lambda k: learner(net or mlp(6, 8, 4), optimizer=optimizer), 1)
    train_alone([live], rows(20, 6) if net is None else {**rows(20, 3), "x": rows(20, 3)["y"]}, 0)
    return describe(live)["optimizer"]


@pytest.mark.parametrize("optimizer", KERNELS)
def test_where_torch_has_a_fused_kernel_it_is_the_default_and_the_plan_says_so(optimizer):
    assert described(optimizer) == f"{optimizer.__name__} (fused)"


@pytest.mark.parametrize("optimizer", NONE)
def test_where_torch_has_none_the_optimizer_is_left_as_it_is(optimizer):
    assert described(optimizer) == optimizer.__name__


@pytest.mark.parametrize("choice", CHOSEN)
def test_what_the_user_chose_is_kept(choice):
    assert described(partial(torch.optim.SGD, **choice)) == "SGD"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam])
def test_sparse_gradients_which_no_fused_kernel_reads_can_be_trained(optimizer):
    net = nn.Sequential(nn.Embedding(10, 4, sparse=True))
    assert described(optimizer, net) == optimizer.__name__
