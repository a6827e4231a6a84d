"""What does it cost to derive features again when the data have grown by a tenth?

A frozen backbone, materialized: the share of the rows that a full recompute passes through the backbone, and of its
bytes and seconds, after an append of 10 % new rows.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, print_figures, print_table
from torch import nn

import cerebro

PASSED = {"rows": 0, "seconds": 0.0}
"""What went through the backbone; the inline engine runs in this process."""


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 32))

    def forward(self, signal):
        started = time.perf_counter()
        found = self.layers(signal)
        PASSED["rows"] += len(signal)
        PASSED["seconds"] += time.perf_counter() - started
        return found


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Linear(32, 4)

    def forward(self, signal):
        return self.head(self.backbone(signal))


def build(config):
    return cerebro.Learner(
        module=Net(),
        loss=lambda module, batch: F.cross_entropy(module(batch["signal"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=64,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
        freeze=["backbone"],
    )


def recordings(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.RandomState(seed)
    label = random.randint(0, 4, rows)
    return {"signal": (random.randn(rows, 64) + label[:, None]).astype(np.float32), "label": label}


def main() -> None:
    options = arguments(__doc__)
    rows = 8_000 if options.quick else 40_000
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), rows)
    print_figures("append", figures)


def measure(folder: Path, rows: int) -> dict[str, float]:
    cerebro.ingest(recordings(rows, 0), folder / "data.shards", shards=10, label="label")
    grid = cerebro.Grid({"lr": [1e-2, 1e-3]})
    experiment = cerebro.Experiment(
        "append", folder / "data.shards", build, grid, epochs=2, metric="accuracy", mode="max"
    )
    first, _ = fitted(experiment, folder / "store")
    experiment.append(recordings(rows // 10, 1))
    grown, digests = fitted(experiment, folder / "store")
    full, again = fitted(experiment, folder / "fresh")
    assert digests == again, "what is stored changes no bit"
    print_table(
        f"2 models, {rows:,} rows and a tenth more",
        ("features", "rows through the backbone", "its seconds", "bytes stored"),
        [
            ("first cycle", first["rows"], first["seconds"], first["bytes"]),
            ("after the append", grown["rows"], grown["seconds"], grown["bytes"]),
            ("full recompute", full["rows"], full["seconds"], full["bytes"]),
        ],
    )
    return {
        "feature_work_share": grown["rows"] / full["rows"],
        "feature_bytes_share": grown["bytes"] / full["bytes"],
        "feature_seconds_share": grown["seconds"] / full["seconds"],
    }


def fitted(experiment: cerebro.Experiment, store: Path) -> tuple[dict[str, float], dict[str, str]]:
    """What one fit passes through the backbone and stores, and the states that it ends in."""
    before = stored_bytes(store)
    PASSED.update(rows=0, seconds=0.0)
    result = experiment.fit(engine="inline", workers=1, features="materialize", store=store, progress=False)
    digests = {row["model"]: row["state_digest"] for row in result.leaderboard()}
    return {**PASSED, "bytes": stored_bytes(store) - before}, digests


def stored_bytes(store: Path) -> int:
    return sum(file.stat().st_size for file in (store / ".features").glob("*")) if store.exists() else 0


if __name__ == "__main__":
    main()
