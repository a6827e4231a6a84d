"""A driver to be killed: `python -m tests.engines.orphan_driver SHARDS STORE PIPE KIND`.

Its two workers say who they are through PIPE, and stay in a unit for longer than anybody waits.
"""

import ctypes
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import cerebro
from tests.faults import counting
from tests.nets import build_mlp

LONG = 600


def hold_the_lock() -> None:
    """Sleeps in C with the interpreter's lock held, so that no other thread of Python runs."""
    ctypes.PyDLL(None).sleep(LONG)


def compute() -> None:
    """Stays in torch, which lets go of the lock."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        torch.randn(200, 200) @ torch.randn(200, 200)


def start_a_child() -> int:
    """A process that holds all that its parent has open, and knows nothing of anybody's end."""
    child = os.fork()
    if child == 0:
        time.sleep(LONG)
        os._exit(0)
    return child


KINDS = {"lock": hold_the_lock, "torch": compute, "child": hold_the_lock}


def loss(kind, pipe, learner, module, batch):
    value = learner.loss(module, batch)
    if module.training and module.seen > 4:  # not in the pilot, which has three batches
        pids = [os.getpid(), os.getppid(), *([start_a_child()] if kind == "child" else [])]
        with open(pipe, "a") as end:
            end.write(" ".join(map(str, pids)) + "\n")
        KINDS[kind]()
    return value


def build(pipe, kind, config):
    learner = counting(build_mlp(config))
    return replace(learner, loss=partial(loss, kind, pipe, learner))


def main(shards: str, store: str, pipe: str, kind: str) -> None:
    experiment = cerebro.Experiment(
        "orphans",
        data=Path(shards),
        build=partial(build, pipe, kind),
        search=cerebro.Grid({"lr": [0.1, 0.01], "width": [8, 16]}),
        epochs=1,
        metric="loss",
        mode="min",
    )
    experiment.fit(workers=2, store=store, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
