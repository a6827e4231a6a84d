"""When batches are played, and when not."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import cerebro
from cerebro.errors import ModelError
from cerebro.training import player as module
from cerebro.training.player import Player, Shelf, Tapes
from cerebro.training.train import train_visit, valid_visit
from tests.training.fused_nets import AlwaysPlayed, Quicker, learner, lives, mlp, order, rows, set_generators

SCALE = 3.0


class Counted:
    """A computation that knows how often its code ran."""

    def __init__(self, compute=lambda x: x * SCALE):
        self.runs, self.compute = 0, compute

    def __call__(self, batch):
        self.runs += 1
        return [self.compute(batch["x"])], "the rest"


PATIENT = float("inf")


def given(player, count, length=4):
    return [player({"x": torch.arange(length) + float(number)}) for number in range(count)]


def expected(count, length=4):
    return [([(torch.arange(length) + float(number)) * SCALE], "the rest") for number in range(count)]


def as_lists(found):
    return [([tensor.tolist() for tensor in tensors], rest) for tensors, rest in found]


def test_after_two_equal_tapes_batches_are_played():
    counted = Counted()
    found = given(Player(counted, AlwaysPlayed(PATIENT)), 10)
    assert as_lists(found) == as_lists(expected(10))
    assert counted.runs == 6  # two, two that are noted and computed, and none of the other six


def test_tapes_are_settled_when_it_is_known_of_each_shape_how_it_is_computed():
    tapes = Tapes(PATIENT)
    player, settled = Player(Counted(), tapes), list[bool]()
    for count, length in ((0, 4), (4, 4), (module._PROVEN, 4), (1, 7)):  # new, noted, compared often, another shape
        given(player, count, length)
        settled.append(tapes.are_settled)
    assert settled == [False, False, True, False]
    given(Player(Counted(), long := Tapes(longest=0.0)), 4)
    assert long.are_settled


def test_each_shape_has_a_tape_of_its_own():
    counted, tapes = Counted(), AlwaysPlayed(PATIENT)
    for length in (4, 7, 4, 7):
        assert as_lists(given(Player(counted, tapes), 6, length)) == as_lists(expected(6, length))
    assert len(tapes.kept) == 2
    assert counted.runs == 2 * 6


def test_code_that_changes_from_batch_to_batch_is_never_played():
    numbers = iter(range(100))
    counted, tapes = Counted(lambda x: x * next(numbers)), AlwaysPlayed(PATIENT)
    found = given(Player(counted, tapes), 8)
    assert [tensors[0].tolist() for tensors, _ in found[4:]] == [
        ((torch.arange(4) + float(number)) * (number + 2)).tolist()
        for number in range(4, 8)  # two were noted
    ]
    assert list(tapes.kept.values()) == ["two batches did not run the same kernels"]


def test_code_that_gives_something_else_by_now_is_found_out(monkeypatch):
    monkeypatch.setattr(module, "_BETWEEN", 3)
    factors = [SCALE]
    tapes = Tapes(PATIENT)
    player = Player(Counted(lambda x: x * factors[0]), tapes)
    given(player, 5)
    (kept,) = tapes.kept.values()
    assert not isinstance(kept, str)
    factors[0] = 5.0
    found = given(player, 6)
    assert [tensors[0][1].item() for tensors, _ in found[3:]] == [20.0, 25.0, 30.0]
    assert list(tapes.kept.values()) == ["playing did not give what the code gave"]


def test_what_was_found_the_same_again_is_looked_at_half_as_often(monkeypatch):
    monkeypatch.setattr(module, "_BETWEEN", 3)
    monkeypatch.setattr(module, "_LONGEST_BETWEEN", 12)
    seconds = (-(0.5**number) for number in itertools.count())  # what comes later is quicker
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    counted, tapes = Counted(), Tapes(PATIENT)
    tapes.hold_at("here")
    player, runs = Player(counted, tapes), []
    for number in range(50):
        player({"x": torch.full((600,), float(number))})
        runs.append(counted.runs)
    computed = [number for number in range(7, 50) if runs[number] > runs[number - 1]]
    assert computed == [7, 14, 27, 40]  # after 3, 6, and then always 12 that were played


def test_the_last_batch_of_a_visit_has_to_come_more_often_before_it_is_noted():
    tapes = AlwaysPlayed(PATIENT, patience=1, patience_with_odd=4)
    for visits in range(1, 8):
        player = Player(Counted(), tapes)
        given(player, 4, length=5)
        given(player, 1, length=3)
        assert len(tapes.kept) == (1 if visits < 7 else 2)


def test_code_that_is_computed_otherwise_when_it_is_looked_at_gives_what_it_gives_alone():
    def compute(x):
        return x * 2 if _get_current_dispatch_mode_stack() else x * SCALE

    tapes = AlwaysPlayed(PATIENT)
    assert as_lists(given(Player(Counted(compute), tapes), 8)) == as_lists(expected(8))
    assert list(tapes.kept.values()) == ["two batches did not run the same kernels"]


def test_what_is_not_quicker_is_given_up(monkeypatch):
    seconds = (number**2 for number in itertools.count())  # what comes later takes longer
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(module, "_BETWEEN", 2)
    counted, tapes = Counted(), Tapes(PATIENT)
    given(Player(counted, tapes), 20)
    assert list(tapes.kept.values()) == ["playing is not quicker"]
    assert counted.runs == 20 + 2  # all of them, and the two that were noted


def test_a_batch_that_takes_long_is_not_noted():
    tapes = AlwaysPlayed(0.0)
    given(Player(Counted(), tapes), 3)
    assert list(tapes.kept.values()) == ["a batch takes long, so that little of it is Python"]


def test_tapes_are_forgotten_when_the_tensors_lie_elsewhere():
    tapes = AlwaysPlayed(PATIENT)
    tapes.hold_at([1, 2])
    given(Player(Counted(), tapes), 4)
    tapes.hold_at([1, 2])
    assert tapes.kept
    tapes.hold_at([1, 3])
    assert not tapes.kept
    assert not tapes.begun


def test_the_tapes_of_a_model_are_dropped_with_it():
    shelf = Shelf()
    of_both, of_one = shelf.of(("m001", "m002"), "train", True), shelf.of(("m002",), "train", True)
    assert shelf.of(("m001", "m002"), "train", True) is of_both
    shelf.drop("m001")
    assert shelf.of(("m001", "m002"), "train", True) is not of_both
    assert shelf.of(("m002",), "train", True) is of_one


NETS = {
    "mlp": lambda: mlp(6, 8, 4, rate=0.3),
    "normed": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.TransformerEncoderLayer(2, 1, 8, batch_first=True), nn.Flatten(), nn.Linear(6, 4)
    ),
}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("net", NETS)
def test_a_model_that_is_played_has_the_bits_of_the_plain_loop(net, clip, optimizer):
    def build(_):
        schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)
        return learner(NETS[net](), optimizer=optimizer, clip_norm=clip, schedule=schedule)

    (plain,), (played,) = lives(build, 1), lives(build, 1)
    columns, tapes, valid_tapes = rows(16 * 9 + 5, 6), AlwaysPlayed(PATIENT), AlwaysPlayed(PATIENT)
    for visit in range(3):
        set_generators(("noise", visit))
        expected = train_visit(plain, columns, order(columns, visit)), valid_visit(plain, columns)
        set_generators(("noise", visit))
        found = train_visit(played, columns, order(columns, visit), tapes), valid_visit(played, columns, valid_tapes)
        assert found == expected
        assert played.state.to_bytes() == plain.state.to_bytes()
    assert any(not isinstance(kept, str) for kept in tapes.kept.values()), tapes.kept


def test_a_statistic_that_is_none_is_refused_in_words():
    class Absent(cerebro.metrics.Metric):
        def measure(self, output, batch):
            return {"count": None}

        def value(self, totals):
            return 0.0

    (live,) = lives(lambda _: learner(NETS["mlp"](), metrics={"absent": Absent()}), 1)
    with pytest.raises(ModelError, match="only numbers and tensors of them add up"):
        train_visit(live, rows(32, 6), None)


class Looked(nn.Module):
    """In evaluation torch's layer runs one kernel, and others where it is looked at."""

    def __init__(self):
        super().__init__()
        self.layer, self.classify = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.classify(self.layer(x)[:, 0])


@pytest.mark.parametrize("batch_size", [2, 16])
def test_code_that_runs_other_kernels_where_it_is_looked_at_is_measured_by_itself(batch_size):
    for seed in range(5):
        torch.manual_seed(seed)
        columns = rows(batch_size * 12, 6, 8, seed=seed)
        one, other = lives(lambda k: learner(Looked(), batch_size=batch_size), 1) * 2
        tapes = Quicker(PATIENT)
        expected = [valid_visit(one, columns) for _ in range(3)]
        assert [valid_visit(other, columns, tapes) for _ in range(3)] == expected
        train_visit(one, columns, None)


def test_numbers_that_are_few_are_compared_again_before_any_is_played():
    counted = Counted()
    found = given(Player(counted, Quicker(PATIENT)), 20)
    assert as_lists(found) == as_lists(expected(20))
    assert counted.runs == 20 + 2  # and two were noted: four numbers are soon equal by chance
