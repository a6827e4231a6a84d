"""Small learners on a small dataset, for tests that really train."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro

ROWS, CHANNELS, STEPS, CLASSES = 400, 3, 20, 4


def signals(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """`signal [rows, 3, 20] float32` whose label can be learnt, and a subject."""
    random = np.random.RandomState(seed)
    label = random.randint(0, CLASSES, rows)
    signal = random.randn(rows, CHANNELS, STEPS).astype(np.float32)
    signal[:, 0] += label[:, None] * 0.7
    return {"signal": signal, "label": label, "subject": random.randint(0, 12, rows)}


def mlp(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * STEPS, width), nn.ReLU(), nn.Linear(width, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 8, 5),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.dropout, self.classify = (
            nn.LSTM(CHANNELS, 8, batch_first=True),
            nn.Dropout(0.3),
            nn.Linear(8, 4),
        )

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        steps, _ = self.lstm(signal.transpose(1, 2))
        return self.classify(self.dropout(steps[:, -1]))


def cross_entropy(module, batch):
    return F.cross_entropy(module(batch["signal"]), batch["label"])


def build_mlp(config):
    return cerebro.Learner(
        module=mlp(config.get("width", 16)),
        loss=cross_entropy,
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config.get("l2", 0.0)),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def build_cnn(config):
    return cerebro.Learner(
        module=cnn(),
        loss=cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=config["lr"], momentum=0.9),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def build_lstm(config):
    return cerebro.Learner(
        module=LSTM(),
        loss=cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=config["lr"]),
        batch_size=32,
        schedule=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], total_steps=200),
        clip_norm=1.0,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


BUILDS = {"mlp": build_mlp, "cnn": build_cnn, "lstm": build_lstm}


def build_any(config):
    """One of the three, by `config["net"]`."""
    return BUILDS[config["net"]](config)
