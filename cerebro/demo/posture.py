"""Sixteen CNN-LSTMs on accelerometer recordings: which window, how deep, which learning rate, how much L2?

    cerebro demo                          # all of it
    cerebro run examples/posture/posture.py --workers 2

The recordings (smartwatch, 10 people, 7 shoulder exercises, 50 Hz) come inside the package `seglearn`, which is read as
a data file and never imported:

    pip install --no-deps seglearn==1.2.5
"""

import importlib.util
import itertools
import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro

WINDOW, STEP = 100, 50
"""Steps in a window (2 s), and from one window to the next."""
SHARDS = "posture.shards"


class ConvLSTM(nn.Module):
    """Convolutions that halve the time axis, an LSTM over what is left, and the mean of its outputs."""

    def __init__(self, channels: int, classes: int, layers: int, width: int = 32, window: int = WINDOW) -> None:
        super().__init__()
        self.window = window
        sizes = [channels, *[width] * layers]
        self.convolutions = nn.Sequential(
            nn.BatchNorm1d(channels),
            *(block(before, after) for before, after in itertools.pairwise(sizes)),
        )
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.classify = nn.Linear(width, classes)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """`signal: [rows, channels, time] float32` to scores `[rows, classes]`."""
        features = self.convolutions(signal[:, :, -self.window :])
        steps, _ = self.lstm(features.transpose(1, 2))
        return self.classify(steps.mean(dim=1))


def block(before: int, after: int) -> nn.Module:
    """One convolution, normalised."""
    return nn.Sequential(nn.Conv1d(before, after, 5, stride=2, padding=2), nn.BatchNorm1d(after), nn.ReLU())


def build(config: Mapping[str, Any]) -> cerebro.Learner:
    """The learner for one config."""
    return cerebro.Learner(
        module=ConvLSTM(channels=6, classes=7, layers=config["layers"], window=config["window"]),
        loss=lambda module, batch: F.cross_entropy(module(batch["signal"]), batch["exercise"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config["l2"]),
        batch_size=64,
        metrics={"accuracy": cerebro.metrics.accuracy("exercise")},
    )


experiment = cerebro.Experiment(
    "posture",
    data=SHARDS,
    build=build,
    search=cerebro.Grid({"window": [50, 100], "layers": [2, 3], "lr": [1e-3, 3e-3], "l2": [1e-2, 1e-1]}),
    epochs=12,
    metric="accuracy",
    mode="max",
)


def recordings() -> dict[str, np.ndarray]:
    """Every window of the recordings: `signal [rows, 6, 100] float32`, `exercise` and `subject`.

    Raises:
        FileNotFoundError: the package that carries them is not installed.
    """
    with _recordings_file().open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        data = _ArraysOnly(file).load().item()
    parts = [_windows(series) for series in data["X"]]
    counts = [len(part) for part in parts]
    exercise = np.asarray(data["y_labels"])[np.asarray(data["y"], dtype=int)]
    return {
        "signal": np.concatenate(parts),
        "exercise": np.repeat(exercise, counts),
        "subject": np.repeat(np.asarray(data["subject"], dtype=np.int64), counts),
    }


def make_shards(destination: str | Path) -> Any:
    """The recordings in four train shards; nobody is in two splits."""
    return cerebro.ingest(recordings(), destination, shards=4, label="exercise", group="subject", split=(0.6, 0.2, 0.2))


def _windows(series: np.ndarray) -> np.ndarray:
    """`series [time, 6]` to overlapping windows `[windows, 6, 100] float32`."""
    view = np.lib.stride_tricks.sliding_window_view(series, WINDOW, axis=0)[::STEP]
    return np.ascontiguousarray(view, dtype=np.float32)


def _recordings_file() -> Path:
    spec = importlib.util.find_spec("seglearn")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the recordings are missing; get them with: pip install --no-deps seglearn==1.2.5")
    return Path(spec.submodule_search_locations[0]) / "data" / "watch_dataset.npy"


class _ArraysOnly(pickle.Unpickler):
    """The file holds a pickled dict of arrays; this unpickler can make arrays and nothing else."""

    _ALLOWED = ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "_codecs.encode")

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._ALLOWED:
            raise pickle.UnpicklingError(f"the recordings hold a {module}.{name}, which is not an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


if __name__ == "__main__":
    if not Path(SHARDS).exists():
        make_shards(SHARDS)
