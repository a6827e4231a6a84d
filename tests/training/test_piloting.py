"""What a pilot times: visits as they will be made, and nothing that costs a model its life."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

import cerebro
from cerebro.messages import Pilot
from cerebro.plan.program import Member, Program
from cerebro.training.trainer import Trainer

ROWS = []
"""The rows of each batch that was trained or measured."""


class Growing(nn.Module):
    """One weight, the loss is its square."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        ROWS.append(len(x))
        return self.weight.expand(len(x))


def build(config):
    return cerebro.Learner(
        module=Growing(),
        loss=lambda module, batch: module(batch["signal"]).square().mean(),
        optimizer=partial(torch.optim.SGD, lr=config["lr"]),
        batch_size=8,
        eval_batch_size=16,
    )


def pilot(shards: Path, lr: float) -> dict:
    ROWS.clear()
    return Trainer(Program(build, shards, 0, {"m001": Member({"lr": lr})}), "cpu").pilot(Pilot("m001", 0, 3))


def test_a_model_that_diverges_only_when_it_sees_the_same_rows_again_is_timed_by_what_went_well(shards: Path):
    profile = pilot(shards, lr=5e4)  # the weight grows 1e5 times a step: four steps are finite, the fifth is not
    assert profile["train_batch_seconds"] > 0
    assert profile["impure_tensor"] is None


def test_whole_visits_are_timed_with_the_rows_that_they_will_have(shards: Path):
    pilot(shards, lr=0.1)
    assert {rows for rows in ROWS if rows <= 8} >= {8, 70 % 8}  # 70 rows in the first shard
    assert max(ROWS) == 16
