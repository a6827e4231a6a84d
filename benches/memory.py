"""Does a dataset larger than a worker's memory go in and through? Peak resident memory of ingest and of training.

A synthetic source of 4 GB is ingested into 64 shards by a process of its own; then two small models visit every shard
on two workers. A worker maps the shard that it trains on, so that the size of a shard counts, and nothing else of the
data.
"""

import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import arguments, print_figures, print_table, timed
from ingest import make_source, measured_ingest
from torch import nn

import cerebro


def build(config):
    net = nn.Sequential(
        nn.Conv1d(6, 8, 9, stride=4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 32)
    )
    return cerebro.Learner(
        module=net,
        loss=lambda module, batch: F.cross_entropy(module(batch["window"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=256,
    )


def main() -> None:
    options = arguments(__doc__ or "", gigabytes=(float, 4.0, "size of the source"))
    gigabytes = 0.3 if options.quick else options.gigabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_source(folder, gigabytes, "npz")
        ingested = measured_ingest(source, folder / "large.shards")
        source.unlink()
        experiment = cerebro.Experiment(
            "large",
            data=folder / "large.shards",
            build=build,
            search=cerebro.Grid({"lr": [1e-3, 1e-2]}),
            epochs=1,
            metric="loss",
            mode="min",
        )
        seconds = timed(lambda: experiment.fit(workers=2, store=folder / "store"))
        with closing(experiment.result(folder / "store").folder.reader()) as reader:
            peak = reader.query("SELECT MAX(peak_bytes) AS peak FROM units")[0]["peak"] / 2**20
    rows = [("ingest", ingested.seconds, ingested.peak_mib, 600), ("train, each worker", seconds, peak, 500)]
    print_table(f"{gigabytes:g} GB", ["step", "seconds", "peak MiB", "goal MiB"], rows)
    print_figures("memory", {"ingest_peak_mib": ingested.peak_mib, "worker_peak_mib": peak, "train_seconds": seconds})


if __name__ == "__main__":
    main()
