"""What does it cost that models move?

First the hop alone: a state of 1, 10 and 100 MB leaves one worker process and enters another, with the messages
through the driver between. Then all that is not training, in a real run on two workers: units of one second, a
state of 10 MB, catalog and checkpoints on disk.
"""

import itertools
import multiprocessing
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import arguments, print_figures, print_table
from torch import nn

import cerebro
from cerebro.engines.channel import Channel
from cerebro.training.state import LiveState
from cerebro.training.transport import Slot, new_slot

MEGABYTES = (1, 10, 100)
LAYERS = 10


def live_state(megabytes: float) -> LiveState:
    """A module of ten tensors and its fused AdamW, with a state of the given size."""
    numbers = int(megabytes * 1e6 / 4 / 3 / LAYERS)
    module = nn.ParameterList(nn.Parameter(torch.zeros(numbers)) for _ in range(LAYERS))
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for parameter in module:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return LiveState(module, optimizer, None)


def worker(channel: Channel, slot: Slot, megabytes: float) -> None:
    torch.set_num_threads(1)
    state = live_state(megabytes)
    size = state.write(slot.room_for)
    while True:
        word = channel.receive()[0]
        if word == b"write":
            size = state.write(slot.room_for)
        elif word == b"load":
            state.load(slot.view(size))
        else:
            return
        channel.send(b"done")


def hop_milliseconds(megabytes: float, hops: int) -> float:
    """The median time of a hop between two processes."""
    fork, slot = multiprocessing.get_context("fork"), new_slot(0)
    ends = [Channel.pair() for _ in range(2)]
    processes = [fork.Process(target=worker, args=(theirs, slot, megabytes)) for _, theirs in ends]
    for process in processes:
        process.start()
    one, other = (ours for ours, _ in ends)
    times = []
    for _ in range(hops + 2):
        started = time.perf_counter()
        for channel, word in ((one, b"write"), (other, b"load")):
            channel.send(word)
            channel.receive()
        times.append((time.perf_counter() - started) * 1e3)
        one, other = other, one
    for channel, _ in ends:
        channel.send(b"end")
    for process in processes:
        process.join()
    return float(np.median(times[2:]))  # the first two make the slot's pages


STEPS = 10


class Padded(nn.Module):
    """A small net that carries a large parameter along."""

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.padding = nn.Parameter(torch.zeros(int(megabytes * 1e6 / 4 / 3)))

    def forward(self, x):
        return self.net(x) + 0.0 * self.padding[:1]


def build_padded(config):
    """A learner whose unit of ten steps keeps a core busy for one second, its gradients and optimizer included."""
    steps, until = itertools.count(), 0.0

    def loss(module, batch):
        nonlocal until
        if module.training:
            begins = next(steps) % STEPS == 0
            until = (time.perf_counter() if begins else until) + config["seconds"] / STEPS
        value = (module(batch["x"]) - batch["y"]).square().mean()
        while time.perf_counter() < until:
            pass
        return value

    return cerebro.Learner(
        module=Padded(10), loss=loss, optimizer=partial(torch.optim.AdamW, lr=config["lr"]), batch_size=8
    )


def overhead(seconds: float, models: int) -> float:
    """The share of a run on two workers that is not training."""
    shards, epochs = 2, 2
    with tempfile.TemporaryDirectory() as name:
        rows = STEPS * 8 * shards
        data = {"x": np.zeros((rows, 4), np.float32), "y": np.zeros((rows, 1), np.float32)}
        cerebro.ingest(data, Path(name) / "x.shards", shards=shards, split=(1.0, 0.0, 0.0))
        experiment = cerebro.Experiment(
            "padded",
            data=Path(name) / "x.shards",
            build=build_padded,
            search=cerebro.Grid({"lr": [0.1 * (i + 1) for i in range(models)], "seconds": [seconds]}),
            epochs=epochs,
            metric="train.loss",
            mode="min",
        )
        result = experiment.fit(workers=2, store=Path(name) / "store", progress=False)
        with closing(result.folder.reader()) as reader:
            span = reader.query("SELECT MIN(started) AS begun FROM units")[0]["begun"]
            end = reader.query("SELECT MAX(ts) AS ended FROM events")[0]["ended"]
    ideal = models * shards * epochs * seconds / 2
    return (end - span) / ideal - 1


def main() -> None:
    options = arguments(__doc__ or "", hops=(int, 50, "hops of each size"))
    hops = 10 if options.quick else options.hops
    found = {size: hop_milliseconds(size, hops) for size in MEGABYTES}
    limits = {size: 0.25 * size + 0.5 for size in MEGABYTES}
    rows = [(size, found[size], found[size] / size, limits[size]) for size in MEGABYTES]
    print_table(f"A hop, median of {hops}", ["MB", "ms", "ms/MB", "goal ms"], rows)
    share = overhead(0.2, 2) if options.quick else overhead(1.0, 6)
    print_table("All that is not training", ["state", "unit", "share of the time"], [("10 MB", "1 s", share)])
    print_figures("hop", {**{f"hop_ms_{size}mb": found[size] for size in MEGABYTES}, "overhead_share": share})


if __name__ == "__main__":
    main()
