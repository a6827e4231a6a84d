"""Stage forks: schedules that agree for the first half of their epochs, trained once there; how much is gained?

Each pair of contenders is the same experiment with `fork=True` and with `fork=False`, end to end, catalog and
checkpoints on disk included, with and without fused passes. They end with the same bits, which is checked.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, interleaved, median_ratio, print_figures, print_table, timed
from torch import nn

import cerebro

FEATURES, CLASSES, SCHEDULES = 64, 8, 8


def build(config):
    return cerebro.Learner(
        module=nn.Sequential(
            nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, CLASSES)
        ),
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["y"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=64,
        metrics={"accuracy": cerebro.metrics.accuracy("y")},
    )


class Contest:
    """One experiment, in every way."""

    def __init__(self, folder: Path, rows: int, epochs: int, workers: int) -> None:
        random = np.random.RandomState(0)
        x = random.randn(rows, FEATURES).astype(np.float32)
        y = (x @ random.randn(FEATURES, CLASSES)).argmax(axis=1)
        cerebro.ingest({"x": x, "y": y}, folder / "data.shards", shards=4, label="y", split=(0.8, 0.2, 0.0))
        late = [float(rate) for rate in np.geomspace(1e-5, 1e-3, SCHEDULES // 2)]
        # Two beginnings, so that there is one training for each of two workers; each goes on in four ways.
        rates = cerebro.stages({1: [1e-3, 3e-3], epochs // 2 + 1: late})
        self.experiment = cerebro.Experiment(
            "stages", data=folder / "data.shards", build=build, search=cerebro.Grid({"lr": rates}), epochs=epochs,
            metric="accuracy", mode="max",
        )  # fmt: skip
        self.folder, self.workers, self.runs = folder, workers, 0
        self.states: list[dict[str, str]] = []

    def plan(self, fork: bool, fuse: bool) -> str:
        return self.experiment.explain(store=self.folder / "pilots", workers=self.workers, fork=fork, fuse=fuse)

    def run(self, fork: bool, fuse: bool) -> float:
        self.runs += 1
        store = self.folder / f"store-{self.runs}"
        store.mkdir()
        os.symlink(self.folder / "pilots" / ".pilots", store / ".pilots")
        fit = partial(self.experiment.fit, workers=self.workers, store=store, fork=fork, fuse=fuse, progress=False)
        seconds = timed(fit)
        rows = self.experiment.result(store).leaderboard()
        self.states.append({row["model"]: row["state_digest"] for row in rows})
        return seconds


def main() -> None:
    given = arguments(__doc__ or "", workers=(int, 2, "worker processes"))
    rounds, rows, epochs = (1, 4096, 4) if given.quick else (5, 16384, 10)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), rows, epochs, given.workers)
        print(contest.plan(True, True))
        print(contest.plan(True, False))
        ways = {
            "fork": (True, False), "alone": (False, False), "fork, fused": (True, True), "alone, fused": (False, True),
        }  # fmt: skip
        seconds = interleaved({name: partial(contest.run, *way) for name, way in ways.items()}, rounds)
    print_table(
        f"{SCHEDULES} schedules x {epochs} epochs, the same for {epochs // 2}",
        ("way", "median s", "rounds"),
        [(name, float(np.median(each)), " ".join(f"{one:.2f}" for one in each)) for name, each in seconds.items()],
    )
    figures = {
        "fork_vs_alone": median_ratio(seconds["alone"], seconds["fork"]),
        "fork_vs_alone_fused": median_ratio(seconds["alone, fused"], seconds["fork, fused"]),
        "equal_digests": float(all(states == contest.states[0] for states in contest.states)),
    }
    print_figures("stages", figures)


if __name__ == "__main__":
    main()
