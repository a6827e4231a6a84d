"""Kernels that are noted once, and played again."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cerebro.training.tape import Tape, record, same_bits

ROWS, FEATURES, CLASSES = 8, 5, 3


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    return x, torch.randint(CLASSES, (ROWS,), generator=generator)


def step_of(net):
    """What computes the gradients and the loss of a batch."""
    parameters = list(net.parameters())

    def step(x, y):
        for parameter in parameters:
            parameter.grad = None
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return [*(parameter.grad for parameter in parameters), loss.detach()]

    return step


def tape_of(compute, *inputs):
    found = record(lambda: compute(*inputs), inputs)
    assert isinstance(found, Tape), found
    return found


def test_a_tape_reads_as_the_list_of_its_kernels():
    weight = nn.Parameter(torch.ones(2, 3))

    def compute(x):
        weight.grad = None
        (x @ weight).relu().sum().backward()
        return [weight.grad]

    lines = str(tape_of(compute, torch.ones(4, 2))).splitlines()
    kernels = [
        line.split(" = aten_")[1].split("(")[0].rstrip("0123456789").rstrip("_") for line in lines if "aten_" in line
    ]
    assert kernels == ["mm", "relu", "sum", "ones_like", "expand", "threshold_backward", "t", "mm"]


NETS = {
    "mlp": lambda: nn.Sequential(nn.Linear(FEATURES, 7), nn.ReLU(), nn.Linear(7, CLASSES)),
    "noise": lambda: nn.Sequential(nn.Linear(FEATURES, 7), nn.Dropout(0.4), nn.Linear(7, CLASSES)),
    "running means": lambda: nn.Sequential(nn.Linear(FEATURES, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, CLASSES)),
    "steps": lambda: nn.Sequential(
        nn.Unflatten(1, (FEATURES, 1)), Last(nn.LSTM(1, 6, batch_first=True)), nn.Linear(6, 3)
    ),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 4, 3, padding=1), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    ),
}


class Last(nn.Module):
    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


@pytest.mark.parametrize("name", NETS)
def test_what_is_played_has_the_bits_of_what_the_code_computes(name):
    torch.manual_seed(0)
    net, other = NETS[name](), NETS[name]()
    other.load_state_dict(net.state_dict())
    compute, reference = step_of(net), step_of(other)
    tape = tape_of(compute, *batch())
    for seed in range(1, 4):
        torch.manual_seed(seed)
        expected = reference(*batch(seed))
        torch.manual_seed(seed)
        found = tape.play(batch(seed))
        assert all(map(same_bits, found, expected))
        assert all(map(same_bits, net.buffers(), other.buffers()))
        with torch.no_grad():
            for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
                ours.sub_(theirs.grad), theirs.sub_(theirs.grad)


def test_noting_leaves_nothing_behind():
    net = NETS["running means"]()
    before, noise = {name: t.clone() for name, t in net.state_dict().items()}, torch.get_rng_state()
    random_state = random.getstate()

    def compute(x, y):
        random.random(), np.random.rand(), torch.rand(3)
        return step_of(net)(x, y)

    assert record(lambda: compute(*batch()), batch()) == "it draws random numbers of Python or NumPy"
    assert all(same_bits(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert random.getstate() == random_state


@pytest.mark.parametrize(
    ("compute", "why_not"),
    [
        (lambda x, y: [x / x.abs().max().item()], "aten._local_scalar_dense.default reads a number from a tensor"),
        (lambda x, y: [x if x.sum() > 0 else -x], "aten._local_scalar_dense.default reads a number from a tensor"),
        (lambda x, y: [torch.tensor(x.tolist())], "it reads numbers by tolist"),
        (lambda x, y: [torch.from_numpy(np.sqrt(np.abs(x.numpy())))], "it reads numbers by numpy"),
        (lambda x, y: [torch.from_numpy(np.abs(np.asarray(x)))], "it reads numbers by __array__"),
        (lambda x, y: [x * random.random()], "it draws random numbers of Python or NumPy"),
        (lambda x, y: [x * float(np.random.rand())], "it draws random numbers of Python or NumPy"),
        (lambda x, y: [x.to_sparse()], "it computes with a Tensor of layout torch.sparse_coo"),
        (lambda x, y: [].pop(), "it fails when it is looked at: IndexError"),
    ],
)
def test_what_a_tape_cannot_tell_is_refused(compute, why_not):
    assert record(lambda: compute(*batch()), batch()) == why_not


def test_columns_that_are_one_memory_are_refused():
    x, _ = batch()
    assert record(lambda: [x + x], (x, x)) == "two columns of the batch are one memory"


def test_tapes_differ_where_a_number_of_python_does():
    scales = iter((1.0, 1.0, 2.0))

    def compute(x):
        return [x * next(scales)]

    first, second, third = (tape_of(compute, batch()[0]) for _ in range(3))
    assert first.is_like(second)
    assert not first.is_like(third)


def test_a_view_that_is_there_is_not_taken_again_and_shows_what_was_written_meanwhile():
    def compute(x):
        doubled = x * 2
        first = doubled.view(-1).sum()
        doubled.t().add_(1)
        return [first, doubled.view(-1).sum(), doubled.t()]

    tape = tape_of(compute, torch.ones(3, 4))
    assert str(tape).count("aten_view") == str(tape).count("aten_t_") == 1
    played, expected = tape.play([torch.full((3, 4), 5.0)]), compute(torch.full((3, 4), 5.0))
    assert all(map(torch.equal, played, expected))


def test_what_is_written_to_a_part_of_lasting_memory_is_written_again():
    sums = torch.zeros(3, 4)
    rows = sums.unbind(0)

    def compute(x):
        torch.mul(x, 2, out=rows[0])
        torch.add(rows[0], x, out=rows[2])
        return [sums.sum(0)]

    tape = tape_of(compute, torch.ones(4))
    assert torch.equal(sums, torch.zeros(3, 4))
    (found,) = tape.play([torch.arange(4.0)])
    assert torch.equal(found, 5 * torch.arange(4.0))
    assert torch.equal(rows[2], 3 * torch.arange(4.0))


def test_lasting_memory_is_written_again_even_if_that_changed_nothing_when_it_was_noted():
    total = torch.zeros(4)
    tape = tape_of(lambda x: [total.copy_(x).sum()], torch.zeros(4))
    (found,) = tape.play([torch.ones(4)])
    assert found == 4
    assert torch.equal(total, torch.ones(4))
    assert [tensor.data_ptr() for tensor in tape.written] == [total.data_ptr()]


def test_copies_that_nobody_reads_are_not_made():
    def compute(x):
        unread, read, seen = torch.empty(4), torch.empty(4), torch.empty(2, 4)
        unread.copy_(x).mul_(2)
        read.copy_(x)
        seen[1].copy_(x + 1)
        return [read + 1, seen[1].sum()]

    tape = tape_of(compute, torch.ones(4))
    assert str(tape).count("aten_copy_") == 2
    assert "mul" not in str(tape)
    more, total = tape.play([torch.ones(4)])
    assert (more.tolist(), total.item()) == ([2.0] * 4, 8.0)


def test_kernels_that_nobody_needs_are_not_played():
    def compute(x):
        x.exp().sum()
        return [x + 1]

    assert [str(call.kernel) for call in tape_of(compute, batch()[0]).calls] == ["aten.add.Tensor"]
