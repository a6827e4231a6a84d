"""Several models in one pass: how fast is it, against loops that somebody would write by hand?

Contenders, all with the same nets, batches of the same size, epochs, metrics and validation, on two processes:

- cerebro: `experiment.fit(workers=2)`, catalog and checkpoints on disk included; it fuses where its pilot says so;
- alone: the same with `fuse=False`; the two end with the same bits, which is checked;
- strong: two processes, each with half of the configs one after another; slices of tensors in memory, fused AdamW;
- typical: the same with a DataLoader and the default AdamW.

Processes are forked from a parent that has torch loaded, for all contenders.
"""

import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, interleaved, median_ratio, print_figures, print_table, timed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cerebro

FEATURES, CLASSES = 39, 7


class ConvLSTM(nn.Module):
    """Two convolutions that halve the time axis, an LSTM, and a linear layer on its last step."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, channels, 5, stride=2, padding=2)
        self.second = nn.Conv1d(channels, channels, 5, stride=2, padding=2)
        self.lstm = nn.LSTM(channels, width, batch_first=True)
        self.classify = nn.Linear(width, CLASSES)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """`signal: [rows, 6, 100] float32` to scores `[rows, classes]`."""
        steps, _ = self.lstm(F.relu(self.second(F.relu(self.first(signal)))).transpose(1, 2))
        return self.classify(steps[:, -1])


def mlp(*widths: int) -> nn.Module:
    sizes = (FEATURES, *widths, CLASSES)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Setting:
    """One cell of the table."""

    name: str
    net: Callable[[], nn.Module]
    models: int
    batch_size: int
    rows: int
    epochs: int
    shape: tuple[int, ...] = (FEATURES,)


SETTINGS = (
    Setting("micro_mlp_64", partial(mlp, 32, 16), 64, 32, 16384, 2),
    Setting("tiny_mlp_16", partial(mlp, 128, 64), 16, 64, 16384, 6),
    Setting("convlstm_small_8", partial(ConvLSTM, 8, 16), 8, 16, 4096, 2, (6, 100)),
    Setting("criteo_mlp_16", partial(mlp, 1000, 500), 16, 256, 16384, 1),
    Setting("convlstm_mid_8", partial(ConvLSTM, 32, 64), 8, 64, 4096, 2, (6, 100)),
)


def build(setting: Setting, config: Mapping[str, Any]) -> cerebro.Learner:
    return cerebro.Learner(
        module=setting.net(),
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["y"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=0.01),
        batch_size=setting.batch_size,
        metrics={"accuracy": cerebro.metrics.accuracy("y")},
    )


class Workload:
    """One setting on its dataset, for every contender."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self.folder, self._runs = setting, folder / setting.name, 0
        self.folder.mkdir()
        random = np.random.RandomState(0)
        x = random.randn(setting.rows, *setting.shape).astype(np.float32)
        y = (x.reshape(setting.rows, -1)[:, :FEATURES] @ random.randn(FEATURES, CLASSES)).argmax(axis=1)
        shards = self.folder / "data.shards"
        dataset = cerebro.ingest({"x": x, "y": y}, shards, shards=4, label="y", split=(0.8, 0.2, 0.0))
        self.train, self.valid = (self._tensors(dataset, split) for split in ("train", "valid"))
        self.rates = [float(rate) for rate in np.geomspace(1e-4, 1e-2, setting.models)]
        self.experiment = cerebro.Experiment(
            "fuse",
            data=shards,
            build=partial(build, setting),
            search=cerebro.Grid({"lr": self.rates}),
            epochs=setting.epochs,
            metric="accuracy",
            mode="max",
        )
        self.digests: dict[bool, dict[str, str]] = {}

    def _tensors(self, dataset, split: str) -> TensorDataset:
        shards = [dataset.shard(split, index).columns for index in range(len(dataset.splits[split]))]
        return TensorDataset(*(torch.from_numpy(np.concatenate([shard[c] for shard in shards])) for c in ("x", "y")))

    def contenders(self) -> dict[str, Callable[[], float]]:
        return {
            "cerebro": partial(self.cerebro, True),
            "alone": partial(self.cerebro, False),
            "strong": partial(self.by_hand, _strong),
            "typical": partial(self.by_hand, _typical),
        }

    def plan(self) -> str:
        """What the pilot said; its results are kept for all runs."""
        store = self.folder / "pilots"
        return self.experiment.explain(store=store, workers=2).splitlines()[-1].strip("└─ ")

    def cerebro(self, fuse: bool) -> float:
        self._runs += 1
        store = self.folder / f"store-{self._runs}"
        store.mkdir()
        os.symlink(self.folder / "pilots" / ".pilots", store / ".pilots")
        seconds = timed(lambda: self.experiment.fit(workers=2, store=store, fuse=fuse, progress=False))
        rows = self.experiment.result(store).leaderboard()
        self.digests[fuse] = {row["model"]: row["state_digest"] for row in rows}
        return seconds

    def by_hand(self, train: Callable[..., None]) -> float:
        fork = multiprocessing.get_context("fork")
        halves = [fork.Process(target=train, args=(self, self.rates[half::2])) for half in range(2)]
        return timed(lambda: _run_all(halves))


def _run_all(processes) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _strong(workload: Workload, rates: list[float]) -> None:
    torch.set_num_threads(1)
    (x, y), size = workload.train.tensors, workload.setting.batch_size
    for rate in rates:
        net = workload.setting.net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, fused=True)
        for _ in range(workload.setting.epochs):
            order = torch.randperm(len(x))
            mixed, labels = x[order], y[order]
            batches = ((mixed[i : i + size], labels[i : i + size]) for i in range(0, len(x), size))
            _epoch(net, optimizer, batches)
            valid = ((t[i : i + size] for t in workload.valid.tensors) for i in range(0, len(workload.valid), size))
            _validate(net, valid)


def _typical(workload: Workload, rates: list[float]) -> None:
    torch.set_num_threads(1)
    for rate in rates:
        net = workload.setting.net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
        for _ in range(workload.setting.epochs):
            _epoch(net, optimizer, DataLoader(workload.train, workload.setting.batch_size, shuffle=True))
            _validate(net, DataLoader(workload.valid, workload.setting.batch_size))


def _epoch(net, optimizer, batches) -> None:
    net.train()
    total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    for x, y in batches:
        optimizer.zero_grad()
        output = net(x)
        loss = F.cross_entropy(output, y)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
        correct += (output.argmax(1) == y).sum()


def _validate(net, batches) -> None:
    net.eval()
    total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    with torch.no_grad():
        for x, y in batches:
            output = net(x)
            total += F.cross_entropy(output, y) * len(x)
            correct += (output.argmax(1) == y).sum()


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 7, "rounds"), only=(str, "", "the setting with this name alone"))
    rounds = 1 if options.quick else options.rounds
    figures = dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        for setting in SETTINGS[:2] if options.quick else SETTINGS:
            if options.only not in ("", setting.name):
                continue
            workload = Workload(setting, Path(name))
            plan = workload.plan()
            workload.cerebro(True)  # starts the fork server
            seconds = interleaved(workload.contenders(), rounds)
            assert workload.digests[True] == workload.digests[False], "passes changed bits"
            table = [(who, median(taken), median_ratio(taken, seconds["cerebro"])) for who, taken in seconds.items()]
            title = f"{setting.name}: {setting.models} models, {setting.epochs} epochs, median of {rounds}\n  {plan}"
            print_table(title, ["contender", "seconds", "× cerebro"], table)
            for who in ("strong", "typical", "alone"):
                figures[f"{setting.name}_vs_{who}"] = median_ratio(seconds[who], seconds["cerebro"])
    print_figures("fuse", figures)


if __name__ == "__main__":
    main()
