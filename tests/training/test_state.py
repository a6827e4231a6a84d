"""A state holds everything that hops, as bytes without pickle."""

from functools import partial

import pytest
import torch
from torch import nn

from cerebro.errors import InternalError, ModelError
from cerebro.training.state import LiveState, read_tensors

OPTIMIZERS = {
    "adamw fused": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adam amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "sgd momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, centered=True, momentum=0.5),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "asgd": partial(torch.optim.ASGD, lr=0.01),
}
SCHEDULES = {
    "none": None,
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=50, cycle_momentum=bool({"betas", "momentum"} & o.defaults.keys())
    ),
    "multi step": partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 4]),
    "lambda": partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
    "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10),
    "warm-up": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[3],
    ),
}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4 * 4, 3, bias=False))
    return module.to(memory_format=torch.channels_last)


def live(seed: int, optimizer="adamw fused", schedule="none") -> LiveState:
    module = net(seed)
    built = OPTIMIZERS[optimizer](module.parameters())
    return LiveState(module, built, SCHEDULES[schedule](built) if SCHEDULES[schedule] else None)


def train(state: LiveState, steps: int) -> LiveState:
    torch.manual_seed(steps)
    for _ in range(steps):
        state.optimizer.zero_grad()
        state.module(torch.randn(5, 2, 6, 6)).square().mean().backward()
        state.optimizer.step()
        if state.schedule is not None:
            state.schedule.step()
    return state


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_from_a_loaded_state_with_the_same_bits(optimizer, schedule):
    stayed = train(live(0, optimizer, schedule), 3)
    hopped = live(1, optimizer, schedule)
    hopped.load(memoryview(stayed.to_bytes()))
    assert hopped.to_bytes() == stayed.to_bytes()
    assert train(hopped, 4).to_bytes() == train(stayed, 4).to_bytes()


def test_a_used_learner_takes_over_a_state_as_a_fresh_one_does():
    start, end = live(0), train(live(0), 2)
    beginning = start.to_bytes()
    end.load(memoryview(beginning))
    assert end.to_bytes() == beginning
    assert train(end, 2).to_bytes() == train(start, 2).to_bytes()


def test_strides_are_part_of_a_state():
    module = live(0).module
    hopped = live(1)
    hopped.load(memoryview(LiveState(module, OPTIMIZERS["adamw fused"](module.parameters()), None).to_bytes()))
    assert hopped.module[0].weight.stride() == module[0].weight.stride() != module[0].weight.contiguous().stride()


def test_a_tied_weight_stays_tied():
    def tied() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        module[1].weight = module[0].weight
        return module

    states = [LiveState(m, torch.optim.SGD(m.parameters(), lr=0.1), None) for m in (tied(), tied())]
    states[1].load(memoryview(states[0].to_bytes()))
    assert states[1].module[0].weight is states[1].module[1].weight
    assert torch.equal(states[0].module[1].weight, states[1].module[1].weight)


def test_every_tensor_can_be_read_by_name():
    state = train(live(0), 1)
    tensors = read_tensors(memoryview(state.to_bytes()))
    assert {"module/0.weight", "module/1.running_mean", "optimizer/0/exp_avg", "optimizer/0/step"} <= tensors.keys()
    assert torch.equal(tensors["module/3.weight"], state.module[3].weight)


def test_a_state_of_another_module_is_refused_by_name():
    other = LiveState(nn.Linear(3, 3), torch.optim.SGD([torch.zeros(1)], lr=0.1), None)
    with pytest.raises(ModelError, match=r"0\.bias: the state holds .* build must give the same module"):
        other.load(memoryview(live(0).to_bytes()))


@pytest.mark.parametrize("damaged", [b"", b"short", b"x" * 100])
def test_what_is_not_a_state_is_refused(damaged):
    with pytest.raises(InternalError, match="state"):
        live(0).load(memoryview(damaged))


def test_what_cannot_hop_is_named():
    state = live(0)
    state.optimizer.param_groups[0]["closure"] = object()
    with pytest.raises(ModelError, match="optimizer or schedule holds <object object"):
        state.to_bytes()
