"""Twenty-four ways in which the code of one config can go wrong, and what its model then says."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cerebro
from cerebro.training.metrics import Metric
from tests.nets import build_any, build_cnn, build_mlp

LATER = 15
"""Batches before the faults that wait: an epoch of the tests' dataset has twelve."""


class Counting(nn.Module):
    """Counts the batches that it was trained on, in its state: workers change, and keep nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return self.net(signal)


class Unspeakable(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


class Raises(Metric):
    def measure(self, output, batch):
        raise LookupError("no such class")

    def value(self, totals):
        return 0.0


class Wordy(Metric):
    def measure(self, output, batch):
        return {"rows": len(output)}

    def value(self, totals):
        return "rather good"


class Bare(Metric):
    def measure(self, output, batch):
        return output.sum()

    def value(self, totals):
        return 0.0


def raising(error: BaseException) -> Callable[..., Any]:
    def strike(*arguments: Any) -> Any:
        raise error

    return strike


def recurse(*arguments: Any) -> Any:
    return recurse(*arguments) + 1


def leave_switches(*arguments: Any) -> Any:
    """Changes how the whole process computes, and fails."""
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    sys.setrecursionlimit(300)
    raise RuntimeError("all switches left on")


def in_loss(strike: Callable[..., Any], after: int = 0) -> Callable[[cerebro.Learner], cerebro.Learner]:
    """A learner whose loss becomes what `strike` gives, after so many batches of training."""

    def apply(learner: cerebro.Learner) -> cerebro.Learner:
        def loss(module, batch):
            value = learner.loss(module, batch)
            return strike(value, module, batch) if module.seen > after else value

        return replace(learner, loss=loss)

    return apply


def wider_each_time(learner: cerebro.Learner) -> cerebro.Learner:
    builds = wider_each_time.__dict__.setdefault("builds", [])
    builds.append(1)
    return replace(learner, module=Counting(nn.Sequential(nn.Flatten(), nn.Linear(60, 4 + len(builds)))))


@dataclass(frozen=True)
class Fault:
    """A change to a sound learner, and how its model ends."""

    apply: Callable[[cerebro.Learner], cerebro.Learner]
    error: str
    """What the error line begins with."""
    status: str = "failed"
    epochs: int = 0
    """Epochs that the model finishes before."""
    kills: bool = False
    """Whether it takes the worker with it, so that there is no traceback."""


def kill_self(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


Build = Callable[[Any], cerebro.Learner]


def killing_once(build: Build, flag: Path, number: signal.Signals = signal.SIGKILL) -> Build:
    """`build`, with a loss that sends its own worker a signal if the file `flag` is there, and takes it away."""

    def build_killing(config: Any) -> cerebro.Learner:
        learner = build(config)
        return replace(learner, loss=partial(_killing, flag, number, learner.loss))

    return build_killing


def _killing(flag: Path, number: signal.Signals, loss: Callable[..., Any], *arguments: Any) -> Any:
    if flag.exists():
        with contextlib.suppress(FileNotFoundError):  # another worker may have taken it at this moment
            flag.unlink()
            os.kill(os.getpid(), number)
    return loss(*arguments)


def lost(*arguments: Any) -> Any:
    return arguments[0] * float("nan")


FAULTS = {
    "build raises": Fault(raising(ValueError("no such layer")), "ValueError: no such layer"),
    "build changes": Fault(wider_each_time, "ModelError: net.1.bias: the state holds"),
    "optimizer raises": Fault(
        lambda learner: replace(learner, optimizer=raising(TypeError("betas"))), "TypeError: betas"
    ),
    "schedule raises": Fault(lambda learner: replace(learner, schedule=raising(KeyError("step"))), "KeyError: 'step'"),
    "metric raises": Fault(
        lambda learner: replace(learner, metrics={"accuracy": Raises()}), "LookupError: no such class"
    ),
    "metric is text": Fault(
        lambda learner: replace(learner, metrics={"accuracy": Wordy()}), "ModelError: Wordy.value: gave a str"
    ),
    "metric is bare": Fault(
        lambda learner: replace(learner, metrics={"accuracy": Bare()}), "ModelError: Bare.measure: gave a Tensor"
    ),
    "loss raises": Fault(in_loss(raising(RuntimeError("too bad"))), "RuntimeError: too bad"),
    "loss raises later": Fault(in_loss(raising(RuntimeError("too late")), LATER), "RuntimeError: too late", epochs=1),
    "loss has rows": Fault(in_loss(lambda loss, module, batch: loss.expand(32)), "ModelError: Learner.loss: gave a te"),
    "no such column": Fault(in_loss(lambda loss, module, batch: batch["signals"]), "ModelError: batch['signals']"),
    "NaN": Fault(in_loss(lost), "DivergedError: the training loss became nan", "diverged"),
    "NaN later": Fault(in_loss(lost, LATER), "DivergedError: the training loss became nan", "diverged", 1),
    "infinite": Fault(
        in_loss(lambda loss, *_: loss + float("inf")), "DivergedError: the training loss became inf", "diverged"
    ),
    "no memory": Fault(in_loss(raising(MemoryError())), "out of memory: MemoryError"),
    "far too large": Fault(in_loss(lambda *_: torch.empty(1 << 50)), "out of memory: RuntimeError"),
    "endless recursion": Fault(in_loss(recurse), "RecursionError: maximum recursion depth exceeded"),
    "sys.exit": Fault(in_loss(raising(SystemExit(3))), "SystemExit: 3"),
    "Ctrl-C of its own": Fault(in_loss(raising(KeyboardInterrupt())), "KeyboardInterrupt"),
    "unspeakable": Fault(in_loss(raising(Unspeakable())), "Unspeakable: its message cannot be shown"),
    "switches": Fault(in_loss(leave_switches), "RuntimeError: all switches left on"),
    "os._exit": Fault(in_loss(lambda *_: os._exit(3)), "3 workers died on", kills=True),
    "segfault": Fault(in_loss(lambda *_: ctypes.string_at(0)), "3 workers died on", kills=True),
    "abort later": Fault(in_loss(lambda *_: os.abort(), LATER), "3 workers died on", epochs=1, kills=True),
    "SIGKILL later": Fault(in_loss(kill_self, LATER), "3 workers died on", epochs=1, kills=True),
}

NOT_IN_PROCESS = ("sys.exit", "Ctrl-C of its own", "os._exit", "segfault", "abort later", "SIGKILL later")
"""What the inline engine does not survive, as it runs in the user's own process."""

SOUND = ("mlp", "cnn", "lstm", "counting mlp", "counting cnn")


def build_faulty(config):
    """A sound learner, or one with the fault that the config names."""
    name, lr = config["code"], {"lr": 0.01}
    if name in FAULTS:
        build = build_cnn if name.endswith("later") else build_mlp
        return FAULTS[name].apply(counting(build(lr)))
    if name.startswith("counting"):
        return counting(build_any({"net": name.split()[1], **lr}))
    return build_any({"net": name, **lr})


def counting(learner: cerebro.Learner) -> cerebro.Learner:
    return replace(learner, module=Counting(learner.module))


def experiment(name: str, shards: Any, code: tuple[str, ...]) -> cerebro.Experiment:
    """Two epochs of one model for each name in `code`."""
    return cerebro.Experiment(
        name,
        data=shards,
        build=build_faulty,
        search=cerebro.Grid({"code": list(code)}),
        epochs=2,
        metric="accuracy",
        mode="max",
    )
