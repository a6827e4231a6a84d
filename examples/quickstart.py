"""Eight small nets on three spirals: how wide, which learning rate, how much L2?"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro

if not Path("spirals.shards").exists():
    random = np.random.RandomState(0)
    arm, turn = random.randint(0, 3, 3000), random.rand(3000, 1)
    angle = 2 * np.pi * (turn + arm[:, None] / 3) + random.randn(3000, 1) / 5
    points = (turn * np.hstack([np.cos(angle), np.sin(angle)])).astype(np.float32)
    cerebro.ingest({"point": points, "arm": arm}, "spirals.shards", shards=4, label="arm")


def build(config):
    width = config["width"]
    return cerebro.Learner(
        module=nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)),
        loss=lambda module, batch: F.cross_entropy(module(batch["point"]), batch["arm"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config["l2"]),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("arm")},
    )


search = cerebro.Grid({"width": [16, 64], "lr": [1e-2, 1e-3], "l2": [0.0, 0.1]})
experiment = cerebro.Experiment("spirals", "spirals.shards", build, search, epochs=8, metric="accuracy", mode="max")
print(experiment.explain())  # the plan and its cost; nothing is trained
result = experiment.fit()  # the same call again resumes, or returns at once
print(result.leaderboard())
print(result.replay())  # the best model, trained again alone: are its bits the same?
module = result.load()  # the best model, a torch.nn.Module
print("(-0.5, 0) lies on arm", module(torch.tensor([[-0.5, 0.0]])).argmax().item())
