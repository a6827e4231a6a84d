"""Is damage at rest always noticed? Files of every kind get a bit flipped or their end cut off, at seeded places.

After each damage everything that a user could do is done: look, load an export, `cerebro doctor`, run, repair, run
again. Detected: something said what is wrong. Harmless: nothing did, and every result is that of the undisturbed run.
Wrong: any result differs.
"""

import random
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, print_figures, print_table
from torch import nn

import cerebro
from cerebro.testing.corruption import DAMAGES, FILES, Specimen

ROUNDS = 8
"""Times each damage is done to each kind of file: 13 x 2 x 8 = 208."""


def build(config):
    return cerebro.Learner(
        module=nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
        loss=lambda module, batch: F.cross_entropy(module(batch["signal"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=8,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def specimen(folder: Path) -> Specimen:
    """Two models on two shards, two epochs."""
    random_rows = np.random.RandomState(0)
    rows = {"signal": random_rows.randn(60, 12).astype(np.float32), "label": random_rows.randint(0, 3, 60)}
    data = folder / "live" / "data"
    data.parent.mkdir()
    cerebro.ingest(rows, data, shards=2, label="label")
    search = cerebro.Grid({"lr": [1e-2, 1e-3]})
    return Specimen(
        folder,
        cerebro.Experiment("specimen", data=data, build=build, search=search, epochs=2, metric="accuracy", mode="max"),
    )


def main() -> None:
    options = arguments(__doc__ or "", seed=(int, 0, "seed of the places"))
    started, rows, total = time.perf_counter(), list[list[object]](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        damaged = specimen(Path(name))
        for kind in FILES:
            for how, damage in DAMAGES.items():
                seeds = [f"{options.seed} {kind} {how} {number}" for number in range(1 if options.quick else ROUNDS)]
                found = {seed: damaged.outcome(kind, damage, random.Random(seed)) for seed in seeds}
                counts = Counter(report.outcome for report in found.values())
                total += counts
                rows.append([kind, how, counts["detected"], counts["harmless"], counts["wrong"]])
                for seed, report in found.items():
                    if report.outcome == "wrong":
                        print(f"WRONG: {seed}: {report.said}")
    print_table("damage at rest", ["file", "damage", "detected", "harmless", "wrong"], rows)
    print_figures(
        "corruption",
        {
            "trials": total.total(),
            "detected": total["detected"],
            "harmless": total["harmless"],
            "wrong": total["wrong"],
            "seconds": time.perf_counter() - started,
        },
    )


if __name__ == "__main__":
    main()
