"""What trials have shown in one process is taken for true in another one on the same machine."""

import json
from contextlib import contextmanager

from torch import nn

from cerebro.training.fused import convolution, linear, remembered
from tests.training.fused_nets import check_same_states, learner, lives, rows, train_alone, train_fused


@contextmanager
def a_new_process(monkeypatch, tried=None):
    """Nothing is known of any shape; `tried` is run instead of trials."""
    with monkeypatch.context() as patched:
        for rule in (linear, convolution):
            patched.setattr(rule, "FINDINGS", type(rule.FINDINGS)(tried or rule._batched, rule.Batched))
        yield


def net(k):
    return learner(nn.Sequential(nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 18, 4)), 1e-3 * (k + 1))


COLUMNS = rows(4 * 16, 8, 20)


def told_after_a_visit():
    group = lives(net, 3)
    train_fused(group, COLUMNS, 0)
    return group, json.loads(json.dumps(remembered.told()))


def test_what_one_process_has_tried_another_does_not_try(monkeypatch):
    def tried(case):
        raise AssertionError(f"{case} is known")

    with a_new_process(monkeypatch):
        group, told = told_after_a_visit()
    assert {rule: len(found) for rule, found in told.items()} == {"linear": 1, "convolution": 1}
    alone = lives(net, 3)
    train_alone(alone, COLUMNS, 0)
    with a_new_process(monkeypatch, tried):
        remembered.hear(told)
        again, _ = told_after_a_visit()
    check_same_states(group, alone)
    check_same_states(again, alone)


def test_a_shape_that_was_not_told_of_is_tried(monkeypatch):
    with a_new_process(monkeypatch):
        _, told = told_after_a_visit()
    with a_new_process(monkeypatch):
        remembered.hear({"convolution": told["convolution"]})
        assert told_after_a_visit()[1] == told
