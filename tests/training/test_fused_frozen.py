"""Models with frozen parts or views in one pass: what is the same for all is computed once, and no bit changes."""

from functools import partial

import pytest
import torch.nn.functional as F
from torch import nn

import cerebro
from cerebro.messages import Pilot, Unit
from cerebro.plan.features import Features
from cerebro.plan.program import Member, Program
from cerebro.training.trainer import Trainer
from tests.frozen_nets import Transfer, build_transfer, build_uses, build_viewed, centred, learner
from tests.nets import CHANNELS, CLASSES, STEPS

pytestmark = pytest.mark.usefixtures("as_workers")

MODELS = ("m001", "m002", "m003")
RATES = (0.001, 0.01, 0.03)


class Encoder(nn.Module):
    """A frozen transformer layer behind noise, so that it runs in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.TransformerEncoderLayer(STEPS, 2, 16, batch_first=True), nn.Flatten())
        self.head = nn.Linear(CHANNELS * STEPS, CLASSES)

    def forward(self, signal):
        return self.head(self.frozen(F.dropout(signal, 0.2, self.training)))


def build_augmented(config):
    return learner(Encoder(), config, freeze=["frozen"])


def build_centred(config):
    return learner(Transfer(), config, freeze=["backbone"], view=partial(centred, scale=2.0))


def build_own_loss(config):
    made = build_uses({**config, "way": "plain"})

    def loss(module, batch):
        return F.cross_entropy(module(batch["signal"]), batch["label"]) * config["lr"]

    return learner(made.module, config, freeze=made.freeze, loss=loss)


def build_scaled(config):
    """What goes into the frozen part is another for each."""

    def loss(module, batch):
        return F.cross_entropy(module(batch["signal"] * config["lr"]), batch["label"])

    return learner(Transfer(), config, freeze=["backbone"], loss=loss)


def build_jittered(config):
    return build_viewed({**config, "freeze": ["backbone"]})


def build_towers(config):
    return build_uses({**config, "way": "two_towers"})


def build_written(config):
    return build_uses({**config, "way": "written"})


def build_partly(config):
    return build_transfer({**config, "freeze": ["backbone.0", "backbone.1"]})


ALIKE = [
    build_transfer,
    build_partly,
    build_centred,
    build_jittered,
    build_augmented,
    build_own_loss,
    build_towers,
    build_written,
]


def trainer_of(build, shards, mode="share", tapes=True):
    members = {m: Member({"lr": lr}) for m, lr in zip(MODELS, RATES, strict=True)}
    trainer = Trainer(Program(build, shards, 0, members, tapes=tapes), "cpu")
    trainer.prefer(Features(mode))
    return trainer


def units(kind, shard, epoch=1):
    return [Unit(model, kind, epoch, shard, shard) for model in MODELS]


def run(trainer, visit):
    """What three visits of all models give, and the states that are left."""
    states = [None] * len(MODELS)
    given = []
    for unit in (("train", 0), ("train", 1), ("valid", 0)):
        given.append(visit(units(*unit), [None if state is None else memoryview(state) for state in states]))
        states = [trainer.state(model) for model in MODELS]
    return given, states


def alone(trainer):
    return run(trainer, lambda found, states: [trainer.visit(u, s) for u, s in zip(found, states, strict=True)])


@pytest.mark.parametrize("mode", ["share", "recompute"])
@pytest.mark.parametrize("build", ALIKE)
def test_models_that_derive_alike_make_one_pass_with_the_bits_of_each_alone(shards, build, mode):
    trainer = trainer_of(build, shards, mode)
    together = run(trainer, trainer.visit_together)
    assert None not in together[0]
    assert together == alone(trainer_of(build, shards))


def test_models_whose_frozen_parts_get_something_else_go_alone(shards):
    trainer = trainer_of(build_scaled, shards)
    assert trainer.visit_together(units("train", 0), [None] * len(MODELS)) is None
    found = trainer.pilot(Pilot("m001", 0, 3, MODELS[1:]))["together"]
    assert found["why_not"] == "what goes into their frozen parts differs"


@pytest.mark.parametrize("build", [build_transfer, build_centred, build_augmented])
def test_the_pilot_sees_that_such_models_can_go_together(shards, build):
    found = trainer_of(build, shards).pilot(Pilot("m001", 0, 3, MODELS[1:]))["together"]
    assert found.keys() == {"train_gain", "valid_gain", "first_seconds"}


def test_what_is_frozen_and_runs_in_each_batch_runs_once_for_all(shards):
    calls = []

    class Counted(nn.Linear):
        def forward(self, signal):
            calls.append(len(signal))
            return super().forward(signal)

    def build(config):
        module = Encoder()
        module.frozen = nn.Sequential(Counted(STEPS, STEPS), nn.Flatten())
        return learner(module, config, freeze=["frozen"])

    trainer = trainer_of(build, shards, tapes=False)
    trainer.visit_together(units("train", 0), [None] * len(MODELS))
    before = len(calls)
    states = [memoryview(trainer.state(model)) for model in MODELS]
    assert trainer.visit_together(units("train", 1), states) is not None
    rows = cerebro.open(shards).shard("train", 1).rows
    assert len(calls) - before == -(-rows // 32)
