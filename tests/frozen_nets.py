"""Learners with a frozen part, for tests of what is derived of it."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import cerebro
from tests.nets import CHANNELS, CLASSES, STEPS, cross_entropy


class Transfer(nn.Module):
    """A backbone with dropout and batch norm, frozen in most tests, and a head with dropout."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv1d(CHANNELS, 12, 5),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Conv1d(12, 10, 3),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(10 * (STEPS - 6), width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(width, CLASSES),
        )

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(signal))


def learner(module: nn.Module, config: dict[str, Any], **fields: Any) -> cerebro.Learner:
    return cerebro.Learner(
        **{
            "module": module,
            "loss": cross_entropy,
            "optimizer": partial(torch.optim.AdamW, lr=config.get("lr", 0.01)),
            "batch_size": 32,
            "metrics": {"accuracy": cerebro.metrics.accuracy("label")},
            **fields,
        }
    )


def build_transfer(config):
    return learner(Transfer(config.get("width", 8)), config, freeze=config.get("freeze", ["backbone"]))


def centred(batch, scale=1.0):
    """A pure representation: each signal without its mean."""
    signal = batch["signal"]
    return {**batch, "signal": (signal - signal.mean(dim=2, keepdim=True)) * scale}


def jittered(batch):
    return {**batch, "signal": batch["signal"] + torch.randn_like(batch["signal"])}


def build_viewed(config):
    view = partial(centred, scale=config["scale"]) if "scale" in config else jittered
    return learner(Transfer(), config, freeze=config.get("freeze", []), view=view)


class Uses(nn.Module):
    """Ways to use a frozen backbone, of which some can be derived and some cannot."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.adapter = nn.Linear(STEPS, STEPS)
        self.first, self.backbone = nn.Linear(STEPS, 7), nn.Linear(7, 6)
        self.other = nn.Linear(STEPS, 6)
        self.head = nn.Linear(CHANNELS * 6, CLASSES)
        self.register_buffer("scale", torch.tensor(0.5))
        nn.init.zeros_(self.head.weight)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        found = getattr(self, f"_{self.way}")(signal)
        return self.head(found.flatten(1))

    def _plain(self, signal):
        return self.backbone(self.first(signal))

    def _scaled(self, signal):
        return self.backbone(self.first(signal * self.scale))

    def _counted(self, signal):
        self.scale += self.training  # a running statistic
        return self.backbone(self.first(signal * self.scale))

    def _written(self, signal):
        x = self.first(signal)
        x += 1
        y = self.backbone(x)
        y *= 2
        return y + self.other(signal).mul_(3)

    def _two_towers(self, signal):
        return self.backbone(self.first(signal)) * self.other(signal)

    def _after_trained(self, signal):
        return self.backbone(self.first(self.adapter(signal)))

    def _after_detached(self, signal):
        return self.backbone(self.first(self.adapter(signal).detach()))

    def _random(self, signal):
        return self.backbone(self.first(F.dropout(signal, 0.1, self.training)))

    def _twice(self, signal):
        return self.backbone(self.first(signal)) + self.backbone(self.first(2 * signal))

    def _never(self, signal):
        return F.linear(self.first(signal), self.backbone.weight)

    def _by_batch(self, signal):
        return self.backbone(self.first(signal - signal.mean(dim=0)))

    def _unused(self, signal):
        self.backbone(self.first(signal))
        return self.other(signal).detach()


class Noisy(nn.Linear):
    """A layer that is random in evaluation mode too."""

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(signal), 0.5, training=True)


TOWERS = ("two_towers", "written")
"""The ways of use with a second frozen tower."""


def build_uses(config):
    freeze = ["first", "backbone", *(["other"] if config["way"] in TOWERS else [])]
    return learner(Uses(config["way"]), config, freeze=freeze, batch_size=config.get("batch_size", 32), shuffle=False)
