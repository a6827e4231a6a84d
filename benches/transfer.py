"""What is gained where models share a frozen backbone: its work done once, against done on every visit?

Eight models on one transformer (4 layers, d = 128, sequences of 32, random weights), 10 epochs, two workers, whole runs
of Cerebro with catalog, checkpoints and feature store on disk:

- heads: all eight train a head on what the pooled backbone gives;
- mixed: six such heads, and two models that tune the last layer too;
- half budget: the mixed set, with room on the disk for half of what is derived, and memory for a part of the rest.

Recomputed, each model goes alone; else models may go in passes. All runs of a set must end in the same states.
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
from cerebro.plan.features import Features

TOKENS, LENGTH, WIDTH, LAYERS, CLASSES = 1000, 32, 128, 4, 5
POOLED_BYTES, LAYER_BYTES = 4 * WIDTH, 4 * WIDTH * LENGTH
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
LAST = f"layers.{LAYERS - 1}"


class Pool(nn.Module):
    def forward(self, x):
        return x.mean(dim=1)


class Net(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.1, batch_first=True) for _ in range(LAYERS)
        )
        self.pool = Pool()
        self.head = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.pool(x))


def build(config):
    frozen = ["embed", *(f"layers.{layer}" for layer in range(LAYERS))]
    if config["number"] < config["tuned"]:
        frozen.remove(LAST)
    else:
        frozen.append("pool")
    return cerebro.Learner(
        module=Net(32),
        loss=lambda module, batch: F.cross_entropy(module(batch["tokens"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=RATES[config["number"]]),
        batch_size=64,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
        freeze=frozen,
    )


def make_data(folder: Path, rows: int) -> Path:
    random = np.random.RandomState(0)
    tokens = random.randint(0, TOKENS, (rows * 5 // 4, LENGTH))
    data = {"tokens": tokens, "label": tokens[:, 0] % CLASSES}
    cerebro.ingest(data, folder / "tokens.shards", shards=2, label="label", split=(0.8, 0.2, 0.0))
    return folder / "tokens.shards"


class Set:
    """One set of models, run in several ways, each time in a store of its own."""

    def __init__(self, name: str, tuned: int, data: Path, epochs: int, folder: Path) -> None:
        search = cerebro.Grid({"number": list(range(len(RATES))), "tuned": [tuned]})
        self.experiment = cerebro.Experiment(
            name, data=data, build=build, search=search, epochs=epochs, metric="accuracy", mode="max"
        )
        self._folder, self._runs, self._states = folder / name, 0, set[tuple]()
        self._folder.mkdir()

    def run(self, features: Features) -> float:
        self._runs += 1
        fuse = features.mode != "recompute"  # a pass would compute once for all its models
        store, pilots = self._folder / f"store-{self._runs}", self._folder / "pilots"
        store.mkdir()
        if pilots.exists():
            os.symlink(pilots, store / ".pilots")
        found = []
        seconds = timed(
            lambda: found.append(
                self.experiment.fit(workers=2, store=store, features=features, fuse=fuse, progress=False)
            )
        )
        if not pilots.exists():
            (store / ".pilots").rename(pilots)
        self._states.add(tuple(sorted((row["model"], row["state_digest"]) for row in found[0].leaderboard())))
        assert len(self._states) == 1, "a way of running has changed the bits of a model"
        return seconds


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 3, "rounds"), rows=(int, 2048, "train rows"))
    rounds, rows, epochs = (1, 256, 5) if options.quick else (options.rounds, options.rows, 10)
    need = rows * 5 // 4 * (POOLED_BYTES + LAYER_BYTES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, rows)
        heads, mixed = Set("heads", 0, data, epochs, folder), Set("mixed", 2, data, epochs, folder)
        for models in (heads, mixed):
            models.run(Features("share"))  # starts the fork server and remembers the pilot
        ways = {
            "heads recomputed": lambda: heads.run(Features("recompute")),
            "heads": lambda: heads.run(Features("materialize")),
            "mixed recomputed": lambda: mixed.run(Features("recompute")),
            "mixed": lambda: mixed.run(Features("materialize")),
            "mixed, half the disk": lambda: mixed.run(Features("auto", budget_bytes=need // 2, memory_bytes=need // 8)),
        }
        seconds = interleaved(ways, rounds)
    plain = {way: seconds[f"{way.partition(',')[0].removesuffix(' recomputed')} recomputed"] for way in ways}
    ratios = {way: median_ratio(plain[way], seconds[way]) for way in ways}
    table = [(way, float(np.median(seconds[way])), ratios[way]) for way in ways]
    print_table(
        f"8 models, {epochs} epochs, {rows} rows, median of {rounds}", ["way", "seconds", "times faster"], table
    )
    figures = {
        "heads_10_epochs": ratios["heads"],
        "mixed_10_epochs": ratios["mixed"],
        "half_budget": ratios["mixed, half the disk"],
    }
    print_figures("transfer", figures)


if __name__ == "__main__":
    main()
