"""Experiments that several benches run: nets of several kinds on made-up data, and who trains them."""

import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from by_hand import strong, two_processes, typical
from harness import timed
from torch import nn
from torch.utils.data import TensorDataset

import cerebro
from cerebro.ids import digest

FEATURES, CLASSES, WORKERS = 39, 7, 2


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


def cnn(channels: int) -> nn.Module:
    """Images `[rows, 3, 24, 24] float32` to scores `[rows, classes]`."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(2 * channels, CLASSES),
    )  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """So many models of one net that differ in their learning rate, and their data."""

    name: str
    net: Callable[[], nn.Module]
    models: int
    batch_size: int
    rows: int
    epochs: int
    shape: tuple[int, ...] = (FEATURES,)
    shards: int = 4
    exact: bool = True

    @property
    def rates(self) -> list[float]:
        return [float(rate) for rate in np.geomspace(1e-4, 1e-2, self.models)]


def build(setting: Setting, config: Mapping[str, Any]) -> cerebro.Learner:
    return cerebro.Learner(
        module=setting.net(),
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["y"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=0.01),
        batch_size=setting.batch_size,
        metrics={"accuracy": cerebro.metrics.accuracy("y")},
    )


def make_data(setting: Setting, folder: Path) -> Path:
    random = np.random.RandomState(0)
    x = random.randn(setting.rows, *setting.shape).astype(np.float32)
    y = (x.reshape(setting.rows, -1)[:, :FEATURES] @ random.randn(FEATURES, CLASSES)).argmax(axis=1)
    shards = folder / f"{setting.name}.shards"
    cerebro.ingest({"x": x, "y": y}, shards, shards=setting.shards, label="y", split=(0.8, 0.2, 0.0))
    return shards


def experiment_of(setting: Setting, folder: Path, search: Any = None) -> cerebro.Experiment:
    """Its experiment on new data; a grid of the learning rates unless there is another `search`."""
    return cerebro.Experiment(
        setting.name.replace("_", "-"),
        data=make_data(setting, folder),
        build=partial(build, setting),
        search=search or cerebro.Grid({"lr": setting.rates}),
        epochs=setting.epochs,
        metric="accuracy",
        mode="max",
        exact=setting.exact,
    )


@dataclass
class Runs:
    """Whole runs of one experiment, each in a store of its own; what its pilot found is kept for all.

    On a GPU, `cuda`, there is one worker.
    """

    experiment: cerebro.Experiment
    folder: Path
    device: str = "cpu"
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """The state of each model after the last run of each name."""
    _count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def workers(self) -> int:
        return WORKERS if self.device == "cpu" else 1

    def plan(self) -> str:
        """What is planned, and how each kind of model is trained; nothing is."""
        return self.experiment.explain(store=self.pilots, workers=self.workers, device=self.device)

    @property
    def pilots(self) -> Path:
        return self.folder / "pilots"

    @property
    def store(self) -> Path:
        """Where the last run is."""
        return self.folder / f"store-{self._count}"

    def fit(self, name: str, workers: int | None = None, **options: Any) -> float:
        """Seconds of a run with these options of `fit`."""
        options |= {"workers": workers or self.workers, "device": self.device}
        self._count += 1
        store = self.store
        store.mkdir()
        (self.pilots / ".pilots").mkdir(parents=True, exist_ok=True)
        os.symlink(self.pilots / ".pilots", store / ".pilots")
        seconds = timed(lambda: self.experiment.fit(store=store, progress=False, **options))
        rows = self.experiment.result(store).leaderboard()
        self.digests[name] = {row["model"]: row["state_digest"] for row in rows}
        return seconds

    @property
    def gain(self) -> float | None:
        """What the pilot says a pass gains; None where it says that there can be none."""
        together = next(iter(self._profiles().values()))["together"]
        return None if together is None or together["why_not"] else together["train_gain"]

    def with_passes(self) -> "Runs | None":
        """The same with a pilot that was edited to say that passes gain much; None where there can be none."""
        if self.gain is None:
            return None
        folder, profiles = self.folder.with_name(f"{self.folder.name}-passes"), self._profiles()
        forced = Runs(self.experiment, folder, self.device)
        for profile in profiles.values():
            profile["together"] = profile["together"] and profile["together"] | {"train_gain": 99.0, "valid_gain": 99.0}
        (forced.pilots / ".pilots").mkdir(parents=True)
        found = self._found() | {"profiles": profiles}
        remembered = {"digest": digest(found), "found": found}
        (forced.pilots / ".pilots" / self._pilot().name).write_text(json.dumps(remembered))
        return forced

    def _pilot(self) -> Path:
        (file,) = (self.pilots / ".pilots").iterdir()
        return file

    def _profiles(self) -> dict[str, Any]:
        return self._found()["profiles"]

    def _found(self) -> dict[str, Any]:
        return json.loads(self._pilot().read_text())["found"]


def unequal_states(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """How many models ended in another state in one run than in the other, or in one of them only."""
    return sum(one.get(model) != other.get(model) for model in {**one, **other})


class Workload:
    """One setting on its dataset, for every contender, on the processor or a GPU (`cuda`)."""

    def __init__(self, setting: Setting, folder: Path, device: str = "cpu") -> None:
        self.setting, self.device = setting, device
        experiment = experiment_of(setting, folder)
        dataset = cerebro.open(experiment.data)
        self.train, self.valid = (_tensors(dataset, split) for split in ("train", "valid"))
        self.runs = Runs(experiment, folder / setting.name, device)

    def contenders(self) -> dict[str, Callable[[], float]]:
        contenders = {
            "cerebro": partial(self.runs.fit, "cerebro"),
            "alone": partial(self.runs.fit, "alone", fuse=False),
            "strong": lambda: timed(lambda: two_processes(strong, self.setting.rates, self)),
            "typical": lambda: timed(lambda: two_processes(typical, self.setting.rates, self)),
        }
        return contenders if self.device == "cpu" else {k: v for k, v in contenders.items() if k != "typical"}


def _tensors(dataset: Any, split: str) -> TensorDataset:
    shards = [dataset.shard(split, index).columns for index in range(len(dataset.splits[split]))]
    return TensorDataset(*(torch.from_numpy(np.concatenate([shard[c] for shard in shards])) for c in ("x", "y")))
