"""How much is read when the data do not fit: models that share a scan against models that each go through it alone.

16 models of four widths on a dataset of four times what memory may hold of it. Bytes are those of shards that had to
be read anew, as the catalog counts them; `held` is what the system itself says it holds of the files after the run.
"""

import ctypes
import mmap
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, print_figures, print_table
from torch import nn

import cerebro
from cerebro.quantities import bytes_text
from cerebro.storage.dataset import Dataset

MODELS, SHARDS, TIMES = 16, 16, 4
WIDTHS = (8, 16, 32, 64)


def build(config):
    return cerebro.Learner(
        module=nn.Sequential(nn.Linear(64, config["width"]), nn.ReLU(), nn.Linear(config["width"], 4)),
        loss=lambda module, batch: F.cross_entropy(module(batch["signal"]), batch["label"]),
        optimizer=partial(torch.optim.SGD, lr=config["lr"]),
        batch_size=256,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def main() -> None:
    options = arguments(__doc__)
    epochs, rows = (1, 40_000) if options.quick else (3, 200_000)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # a temporary file system is memory, and has no cache
        figures = measure(Path(folder), epochs, rows)
    print_figures("scan", figures)


def measure(folder: Path, epochs: int, rows: int) -> dict[str, float]:
    random = np.random.RandomState(0)
    label = random.randint(0, 4, rows)
    signal = (random.randn(rows, 64) + label[:, None]).astype(np.float32)
    dataset = cerebro.ingest({"signal": signal, "label": label}, folder / "data.shards", shards=SHARDS, label="label")
    files = [shard for split in ("train", "valid") for shard in dataset.splits[split]]
    total = sum(shard.bytes for shard in files)
    grid = cerebro.Grid({"width": list(WIDTHS), "lr": [0.1, 0.05, 0.02, 0.01]})
    shared = cerebro.Experiment("scan", dataset.path, build, grid, epochs=epochs, metric="accuracy", mode="max")
    run = partial(fitted, workers=2, fuse=False, shard_memory=total // TIMES, progress=False)
    scan = run(shared, store=folder / "scan")
    held = resident_bytes(dataset)
    whole = fitted(shared, workers=2, fuse=False, store=folder / "whole", progress=False)
    alone = [
        run(
            replace(shared, name=f"alone-{model}", search=cerebro.Grid({k: [v] for k, v in config.items()})),
            store=folder / "alone",
        )
        for model, config in configs(whole).items()
    ]
    same = digests(scan) == digests(whole) and list(digests(whole).values()) == [
        d for a in alone for d in digests(a).values()
    ]
    assert same, "the law of physical independence"
    figures = {
        "bytes_read_over_dataset": read_bytes(scan) / total / epochs,
        "independent_over_dataset": sum(map(read_bytes, alone)) / total / epochs,
        "held_over_limit": held / (total // TIMES),
        "seconds_over_unlimited": seconds(scan) / seconds(whole),
    }
    print_table(
        f"{MODELS} models, {epochs} epochs, {bytes_text(total)} in {len(files)} shards, room for a quarter",
        ("way", "read an epoch / dataset", "seconds"),
        [
            ("shared scan", figures["bytes_read_over_dataset"], seconds(scan)),
            ("each model alone", figures["independent_over_dataset"], sum(map(seconds, alone))),
            ("no limit", read_bytes(whole) / total / epochs, seconds(whole)),
        ],
    )
    print(f"the system holds {held / (total // TIMES):.2f} of the limit after the scan; the bits are the same")
    return figures


def fitted(experiment: cerebro.Experiment, **options):
    return experiment.fit(**options)


def rows_of(result) -> list[dict]:
    return sorted(result.leaderboard(each=True), key=lambda row: row["model"])


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in rows_of(result)}


def configs(result) -> dict[str, dict]:
    return {row["model"]: row["config"] for row in rows_of(result)}


def read_bytes(result) -> int:
    with closing(result.folder.reader()) as reader:
        return reader.query("SELECT SUM(read_bytes) AS read FROM units")[0]["read"]


def seconds(result) -> float:
    with closing(result.folder.reader()) as reader:
        return reader.query("SELECT MAX(started + seconds) - MIN(started) AS seconds FROM units")[0]["seconds"]


def resident_bytes(dataset: Dataset) -> int:
    """What the system holds of the train and valid shards, by `mincore`."""
    libc, found = ctypes.CDLL(None, use_errno=True), 0
    for shard in (shard for split in ("train", "valid") for shard in dataset.splits[split]):
        with (dataset.path / shard.file).open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        pages = (ctypes.c_ubyte * -(-shard.bytes // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(shard.bytes), pages):
            raise OSError(ctypes.get_errno(), "mincore")
        found += sum(page & 1 for page in pages) * mmap.PAGESIZE
    return found


if __name__ == "__main__":
    main()
