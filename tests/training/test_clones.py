"""A warm clone takes over weights, and the optimizer's memory if it is kept; every setting is its own."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import cerebro
from cerebro.errors import InternalError, ModelError
from cerebro.messages import Unit
from cerebro.plan.program import Ancestor, Member, Program
from cerebro.streams import permutation
from cerebro.training.randomness import set_generators
from cerebro.training.state import LiveState, read_tensors
from cerebro.training.trainer import Trainer
from tests.nets import cross_entropy

ROWS, BATCHES = 70, 3
"""Rows of one of the four train shards, and the batches that they make."""
FIRST = Unit("m002", "train", 1, 1, 1)
"""The first unit of a clone whose ancestor has visited one shard."""

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "sgd momentum": partial(torch.optim.SGD, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.1),
    "adamw unfused": partial(torch.optim.AdamW, fused=False),
    "amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "rmsprop": torch.optim.RMSprop,
    "nadam": torch.optim.NAdam,
    "adafactor": torch.optim.Adafactor,
}
FUSED = {"sgd", "sgd momentum", "adamw", "amsgrad"}
"""Where Cerebro chooses torch's fused kernel."""
SCHEDULES = {
    "none": None,
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=60, cycle_momentum=False),
    "warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 20)], milestones=[4]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def net(config) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, config.get("width", 6), 5),
        nn.BatchNorm1d(config.get("width", 6)),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(16 * config.get("width", 6), 4),
    )


def build(config) -> cerebro.Learner:
    return cerebro.Learner(
        module=net(config),
        loss=cross_entropy,
        optimizer=partial(OPTIMIZERS[config.get("optimizer", "sgd")], lr=config["lr"]),
        schedule=SCHEDULES[config.get("schedule", "none")],
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def clone_of(config, choice="keep", **changes) -> Member:
    return Member({**config, **changes}, ancestor=Ancestor("m001", "", choice, 1, (0,)))


def trained(shards: Path, config, members=None) -> tuple[Trainer, bytes]:
    """A trainer, and the state of `m001` after its first unit."""
    trainer = Trainer(Program(build, shards, 0, {"m001": Member(config), **(members or {})}), "cpu")
    trainer.visit(Unit("m001", "train", 1, 0, 0), None)
    return trainer, trainer.state("m001")


def after_first_unit(trainer: Trainer, state: bytes) -> LiveState:
    trainer.visit(FIRST, memoryview(state))
    return trainer._learners[FIRST.model].state


def hand_written(shards: Path, before, after, keep: bool) -> dict[str, torch.Tensor]:
    """What a plain PyTorch program gets that trains one shard, changes the config, and trains another."""
    set_generators((0, "init", 0))
    module, optimizer, schedule = net(before), None, None
    for shard, config in enumerate([before, after]):
        weights, memory = module.state_dict(), optimizer.state_dict()["state"] if optimizer and keep else {}
        module = net(config)
        module.load_state_dict(weights)
        optimizer = OPTIMIZERS[config["optimizer"]](module.parameters(), lr=config["lr"])
        if config["optimizer"] in FUSED:
            optimizer.param_groups[0]["fused"] = True
        optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
        schedule = SCHEDULES[config["schedule"]](optimizer) if SCHEDULES[config["schedule"]] else None
        for _ in range(BATCHES if schedule and keep and shard else 0):
            schedule.step()
        train_by_hand(shards, shard, module, optimizer, schedule)
    found = {f"module/{name}": value for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{key}": v for key, v in state.items() if isinstance(v, torch.Tensor)}
    return found


def train_by_hand(shards: Path, shard: int, module, optimizer, schedule) -> None:
    columns = {
        name: torch.tensor(column) for name, column in cerebro.open(shards).shard("train", shard).columns.items()
    }
    set_generators((0, "noise", 0, "train", 1, shard))
    for rows in torch.from_numpy(permutation(ROWS, (0, "rows", 0, 1, shard))).split(32):
        optimizer.zero_grad()
        cross_entropy(module, {name: column[rows] for name, column in columns.items()}).backward()
        optimizer.step()
        if schedule:
            schedule.step()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*", "ignore:.*epoch parameter.*")
@pytest.mark.parametrize("choice", ["keep", "reset"])
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [(name, "none") for name in OPTIMIZERS] + [("adamw", name) for name in SCHEDULES if name != "none"],
)
def test_the_first_unit_is_that_of_a_plain_loop_bit_for_bit(optimizer, schedule, choice, shards: Path):
    before = {"lr": 0.02, "optimizer": optimizer, "schedule": schedule}
    after = {**before, "lr": 0.005}
    trainer, state = trained(shards, before, {"m002": clone_of(after, choice)})
    found = dict(after_first_unit(trainer, state).tensors())
    expected = hand_written(shards, before, after, keep=choice == "keep")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_the_first_step_is_made_with_the_new_learning_rate(shards: Path):
    steps = list[tuple[list[torch.Tensor], list[torch.Tensor]]]()

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            """Notes the parameters as a step with the rate 1/8 makes them, which rounds once, and as they are."""
            parameters = self.param_groups[0]["params"]
            expected = [p.detach() - 0.125 * p.grad for p in parameters]
            super().step(closure)
            steps.append((expected, [p.detach().clone() for p in parameters]))

    def build_watched(config):
        return replace(build(config), optimizer=partial(Watched, lr=config["lr"]))

    members = {"m001": Member({"lr": 0.5}), "m002": clone_of({"lr": 0.125})}
    trainer = Trainer(Program(build_watched, shards, 0, members), "cpu")
    trainer.visit(Unit("m001", "train", 1, 0, 0), None)
    state = trainer.state("m001")
    steps.clear()
    trainer.visit(FIRST, memoryview(state))
    assert len(steps) == BATCHES
    assert all(torch.equal(one, other) for one, other in zip(*steps[0], strict=True))


@pytest.mark.parametrize(("choice", "steps"), [("keep", 3), ("reset", 0)])
def test_a_schedule_is_that_of_the_new_config_at_the_step_of_the_old(choice, steps, shards: Path):
    config = {"lr": 0.02, "optimizer": "adamw", "schedule": "exponential"}
    trainer, state = trained(shards, config)
    trainer.introduce("m002", clone_of(config, choice, lr=0.5))
    live = trainer._starting(FIRST, memoryview(state)).state
    expected = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    schedule = lr_scheduler.ExponentialLR(expected, 0.9)
    for _ in range(steps):
        expected.step()
        schedule.step()
    assert live.optimizer.param_groups[0]["lr"] == expected.param_groups[0]["lr"]
    assert live.schedule.last_epoch == steps


def test_a_tensor_setting_is_the_clones_own():
    def live(rate: float) -> LiveState:
        module = nn.Linear(3, 2)
        return LiveState(module, torch.optim.Adam(module.parameters(), lr=torch.tensor(rate)), None)

    one, other = live(0.5), live(0.25)
    one.module(torch.ones(1, 3)).sum().backward()
    one.optimizer.step()
    other.adopt(memoryview(one.to_bytes()), "keep")
    tensors = read_tensors(memoryview(other.to_bytes()))
    assert tensors["group/0/lr"].item() == 0.25
    assert tensors["optimizer/0/step"].item() == 1.0


def test_strides_are_the_clones_own():
    def live(memory_format: torch.memory_format) -> LiveState:
        module = nn.Conv2d(2, 4, 3).to(memory_format=memory_format)
        return LiveState(module, torch.optim.AdamW(module.parameters(), fused=True), None)

    one, other = live(torch.contiguous_format), live(torch.channels_last)
    one.module(torch.ones(1, 2, 5, 5)).sum().backward()
    one.optimizer.step()
    other.adopt(memoryview(one.to_bytes()), "keep")
    weight = other.module.weight
    assert torch.equal(weight, one.module.weight)
    assert torch.equal(other.optimizer.state[weight]["exp_avg"], one.optimizer.state[one.module.weight]["exp_avg"])
    assert other.optimizer.state[weight]["exp_avg"].stride() == weight.stride() != one.module.weight.stride()


@pytest.mark.parametrize("choice", ["keep", "reset"])
def test_what_a_clone_measured_before_does_not_change_its_first_unit(choice, shards: Path):
    config = {"lr": 0.02, "optimizer": "adamw", "schedule": "exponential"}
    ancestor = Ancestor("m001", "", choice, 1, (0,), measuring=True)
    states = []
    for measured in (0, 2):
        trainer, state = trained(shards, config)
        trainer.introduce("m002", Member({**config, "lr": 0.5}, ancestor=ancestor))
        for _ in range(measured):
            trainer.visit(Unit("m002", "valid", 1, 0, 0), memoryview(state))
        trainer.visit(Unit("m002", "train", 2, 0, 0), memoryview(state))
        states.append(trainer.state("m002"))
    assert states[0] == states[1]


def test_a_clone_of_another_repeat_sees_other_batches(shards: Path):
    trainer, state = trained(shards, {"lr": 0.02})
    states = []
    for repeat in (0, 1):
        trainer.introduce("m002", replace(clone_of({"lr": 0.02}), repeat=repeat))
        trainer.visit(FIRST, memoryview(state))
        states.append(trainer.state("m002"))
    assert states[0] != states[1]


REFUSED = {
    "width": ({}, {"width": 8}, r"0\.weight: the state of the ancestor holds float32 \(6, 3, 5\).*clone it cold"),
    "class": ({"optimizer": "sgd"}, {"optimizer": "adamw"}, "of another class, without amsgrad, .*optimizer='reset'"),
    "names": ({"optimizer": "adamw"}, {"optimizer": "amsgrad"}, "nothing as max_exp_avg_sq.*optimizer='reset'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_clone_that_cannot_be_warm_says_why(name: str, shards: Path):
    before, changes, message = REFUSED[name]
    trainer, state = trained(shards, {"lr": 0.1, **before})
    trainer.introduce("m002", clone_of({"lr": 0.1, **before}, **changes))
    with pytest.raises(ModelError, match=message):
        trainer.visit(FIRST, memoryview(state))


@pytest.mark.parametrize("name", ["class", "names"])
def test_a_reset_optimizer_may_be_another(name: str, shards: Path):
    before, changes, _ = REFUSED[name]
    trainer, state = trained(shards, {"lr": 0.1, **before})
    trainer.introduce("m002", clone_of({"lr": 0.1, **before}, "reset", **changes))
    assert after_first_unit(trainer, state).schedule is None


def test_a_clone_without_the_state_of_its_ancestor_is_our_mistake(shards: Path):
    trainer = Trainer(Program(build, shards, 0, {"m002": clone_of({"lr": 0.1})}), "cpu")
    with pytest.raises(InternalError, match="no state of m001, which m002 is to start from"):
        trainer.visit(FIRST, None)
