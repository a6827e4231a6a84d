"""Small LSTMs that are computed step by step for all members give nearly what torch's kernel gives each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cerebro.training.fused import fused_train_visit, lstm
from cerebro.training.fused.stacked import RULES
from cerebro.training.randomness import set_generators
from cerebro.training.rewrites import deviation, parameters
from tests.training.fused_nets import CLASSES, AlwaysPlayed, learner, lives, order, rows, train_alone

pytestmark = pytest.mark.usefixtures("as_workers")

ROWS, BATCH, MEMBERS, STEPS, FEATURES, HIDDEN, VISITS = 72, 16, 3, 7, 5, 6, 6


class Reader(nn.Module):
    """What an LSTM makes of a sequence, and scores from that."""

    def __init__(self, use="outputs", begins=False, hidden=HIDDEN, **settings):
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, hidden, **{"batch_first": True, **settings})
        self.begin = nn.Linear(FEATURES, hidden) if begins else None
        self.classify = nn.Linear(hidden * (2 if settings.get("bidirectional") else 1), CLASSES)
        self.use = use

    def forward(self, x):
        start = None if self.begin is None else (self.begin(x[:, 0]).unsqueeze(0), torch.tanh(x[:, 1, :1] + self.wide))
        outputs, (last, cell) = self.lstm(x if self.lstm.batch_first else x.transpose(0, 1), start)
        time = 1 if self.lstm.batch_first else 0
        used = {"outputs": outputs.mean(time), "last step": outputs.select(time, -1), "state": last[-1] + cell[0]}
        return self.classify(used[self.use])

    @property
    def wide(self):
        return self.begin.bias.unsqueeze(0).unsqueeze(0)


NETS = {
    "all outputs": lambda: Reader(),
    "the last step": lambda: Reader("last step"),
    "the last state and cell": lambda: Reader("state"),
    "two layers": lambda: Reader("state", num_layers=2),
    "no biases": lambda: Reader(bias=False),
    "time first": lambda: Reader("last step", batch_first=False),
    "a start of its own": lambda: Reader(begins=True),
}
LEFT = {
    "two directions": lambda: Reader(bidirectional=True),
    "dropout": lambda: Reader(num_layers=2, dropout=0.5),
    "many hidden units": lambda: Reader(hidden=40),
}


def trained(net, seen, monkeypatch, tapes=None):
    """A group after some visits, and models trained alone."""
    rule = lstm.lstm

    def noted(*args):
        found = rule(*args)
        seen.append(found is not NotImplemented)
        return found

    monkeypatch.setitem(RULES, torch.lstm, noted)
    columns = rows(ROWS, STEPS, FEATURES)
    group, alone = (lives(lambda k: learner(net(), 1e-2 / (k + 1), batch_size=BATCH), MEMBERS) for _ in range(2))
    for visit in range(VISITS):
        train_alone(alone, columns, visit)
        set_generators(("noise", visit))
        fused_train_visit(group, columns, order(columns, visit), exact=False, tapes=tapes)
    return group, alone


def furthest(group, others):
    return max(deviation(parameters(one), parameters(other)) for one, other in zip(group, others, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_all_members_are_computed_at_once_and_end_near_to_where_each_ends_alone(name, monkeypatch):
    seen = []
    group, alone = trained(NETS[name], seen, monkeypatch)
    assert set(seen) == {True}
    assert furthest(group, alone) < 1e-4


@pytest.mark.parametrize("name", LEFT)
def test_what_the_rule_does_not_know_or_does_not_pay_is_left_to_torch(name, monkeypatch):
    seen = []
    group, alone = trained(LEFT[name], seen, monkeypatch)
    assert set(seen) == {False}
    assert furthest(group, alone) < 1e-4


@pytest.mark.parametrize("name", ["two layers", "a start of its own"])
def test_batches_that_are_played_have_the_bits_of_those_that_are_computed(name, monkeypatch):
    computed, _ = trained(NETS[name], [], monkeypatch)
    tapes = AlwaysPlayed(longest=100.0)
    played, _ = trained(NETS[name], [], monkeypatch, tapes)
    assert not any(isinstance(kept, str) for kept in tapes.kept.values())
    assert tapes.kept
    assert [live.state.to_bytes() for live in played] == [live.state.to_bytes() for live in computed]


def test_what_a_batch_gave_is_not_written_over_by_the_next(monkeypatch):
    kept = []

    def keeping(module, batch):
        outputs, (last, cell) = module.lstm(batch["x"])
        for value in (outputs, last, cell):
            kept.append([value.detach().clone().members(), value.detach().members()])
        scores = module.classify(outputs[:, -1])
        return F.cross_entropy(scores, batch["y"]), scores

    group = lives(lambda k: learner(Reader("last step"), loss=keeping, batch_size=BATCH), MEMBERS)
    fused_train_visit(group, rows(ROWS, STEPS, FEATURES), None, exact=False)
    assert len(kept) == 3 * -(-ROWS // BATCH)
    assert all(all(map(torch.equal, *both)) for both in kept)


def test_the_memory_of_few_sizes_is_kept():
    sizes = [lstm._Sizes(MEMBERS, steps, 2, 2, 2) for steps in range(1, 3 * lstm._MOST_ROOMS)]
    for size in sizes:
        lstm._leave(lstm._entered(size))
    assert list(lstm._ROOMS) == sizes[-lstm._MOST_ROOMS :]
