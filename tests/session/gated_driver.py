"""A driver that waits to be let go: `python -m tests.session.gated_driver NAME SHARDS STORE SAYS HEARS`.

In the first batch of its pilot, and again in its first batch after that, it writes its process id to the pipe SAYS and
waits for a byte from HEARS. Both may be `-`: then it just runs, on a worker.
"""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cerebro
from tests.faults import counting
from tests.nets import build_any

MODELS = {"one": ["mlp", "cnn"], "two": ["lstm", "mlp", "cnn"]}
GATES = 2


def experiment(name: str, shards, says: str = "-", hears: str = "-") -> cerebro.Experiment:
    """Two epochs of a few small models."""
    return cerebro.Experiment(
        name,
        data=Path(shards),
        build=partial(build, says, hears),
        search=cerebro.Grid({"net": MODELS[name], "lr": [0.01, 0.001]}),
        epochs=2,
        seed=len(name),
        metric="accuracy",
        mode="max",
    )


def build(says: str, hears: str, config):
    learner = build_any(config)
    return learner if says == "-" else replace(counted := counting(learner), loss=partial(loss, says, hears, counted))


def loss(says: str, hears: str, learner, module, batch):
    """As the learner's, once the gates are open."""
    if len(_passed) < GATES and (not _passed or module.seen > 4):
        _passed.append(1)
        _say(says)
        _hear(hears)
    return learner.loss(module, batch)


_passed: list[int] = []
"""Gates that this process has passed: on the inline engine, all models are in one."""


def _say(pipe: str) -> None:
    with open(pipe, "w") as end:
        end.write(f"{os.getpid()}\n")


def _hear(pipe: str) -> None:
    end = os.open(pipe, os.O_RDONLY)
    os.read(end, 1)
    os.close(end)


if __name__ == "__main__":
    name, shards, store, says, hears = sys.argv[1:]
    engine = "local" if says == "-" else "inline"
    experiment(name, shards, says, hears).fit(engine=engine, workers=1, store=store, progress=False, fuse=False)
