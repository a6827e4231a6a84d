"""How fast, and in how much memory, does a source larger than a shard become a dataset?

`python benches/ingest.py [--quick] [--gigabytes 4] [--kind npz|parquet] [--keep FOLDER]`

Makes a source of windows [6, 100] float32 with a label and a subject, ingests it in a process of its own, and prints
the time and the peak of resident memory of that process. `--keep` leaves the dataset in FOLDER.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SHAPE = (6, 100)
ROW_BYTES = 4 * 600 + 8 + 8
BLOCK_ROWS = 20_000
LABELS = 8
SUBJECTS = 50
SHARDS = 64


@dataclass(frozen=True)
class Figures:
    """What one ingest took."""

    seconds: float
    peak_mib: float
    bytes: int
    shard_mib: float


def blocks(rows: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Windows of noise about the mean of their label, a block at a time: 40 times cheaper to draw than to store."""
    draws = np.random.default_rng(seed)
    noise = draws.normal(size=(4096, *SHAPE)).astype(np.float32)
    for start in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        label = draws.integers(0, LABELS, count)
        window = noise[draws.integers(0, len(noise), count)] + label[:, None, None].astype(np.float32) / LABELS
        yield {"window": window, "label": label, "subject": draws.integers(0, SUBJECTS, count)}


def make_npz(path: Path, rows: int) -> None:
    """An uncompressed archive, written an array at a time."""
    shapes = {"window": ((rows, *SHAPE), "<f4"), "label": ((rows,), "<i8"), "subject": ((rows,), "<i8")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, (shape, dtype) in shapes.items():
            head = {"shape": shape, "fortran_order": False, "descr": dtype}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, head)
                for block in blocks(rows):
                    member.write(block[name].data.cast("B"))


def make_parquet(path: Path, rows: int) -> None:
    """An uncompressed file with row groups of a block."""
    kind = pa.list_(pa.list_(pa.float32(), SHAPE[1]), SHAPE[0])
    schema = pa.schema({"window": kind, "label": pa.int64(), "subject": pa.int64()})
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for block in blocks(rows):
            flat = pa.FixedSizeListArray.from_arrays(pa.array(block["window"].reshape(-1)), SHAPE[1])
            window = pa.FixedSizeListArray.from_arrays(flat, SHAPE[0])
            writer.write_table(pa.table([window, block["label"], block["subject"]], schema=schema))


KINDS = {"npz": make_npz, "parquet": make_parquet}


def make_source(folder: Path, gigabytes: float, kind: str) -> Path:
    """A source of about so many GB (10^9 bytes) in `folder`."""
    path = folder / f"source.{kind}"
    KINDS[kind](path, int(gigabytes * 1e9 / ROW_BYTES))
    return path


def measured_ingest(source: Path, destination: Path) -> Figures:
    """Ingest in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(source), str(destination)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Figures(bytes=source.stat().st_size, **json.loads(done.stdout))


def measure(source: Path, destination: Path) -> dict[str, Any]:
    """Ingest here, and say what it took."""
    from cerebro.storage.ingest import ingest

    before = time.perf_counter()
    dataset = ingest(source, destination, shards=SHARDS, label="label", group="subject")
    seconds = time.perf_counter() - before
    largest = max(shard.bytes for shards in dataset.splits.values() for shard in shards)
    return {"seconds": seconds, "peak_mib": peak_mib(), "shard_mib": largest / 2**20}


def peak_mib() -> float:
    """The most memory that this process had at once; getrusage would count the process it was forked from."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def bench(gigabytes: float, kind: str, keep: Path | None) -> Figures:
    """Make a source, ingest it, and clean up."""
    with tempfile.TemporaryDirectory(prefix="cerebro-bench-") as scratch:
        folder = Path(scratch)
        free = shutil.disk_usage(folder).free
        if free < 3.5e9 * gigabytes:
            sys.exit(f"{folder}: {free / 1e9:.1f} GB free, {3.5 * gigabytes:.1f} needed; set TMPDIR or --gigabytes")
        source = make_source(folder, gigabytes, kind)
        os.sync()
        return measured_ingest(source, keep or folder / "bench.shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="0.3 GB")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--kind", choices=KINDS, default="parquet")
    parser.add_argument("--keep", type=Path, help="leave the dataset in this folder")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    found = bench(0.3 if asked.quick else asked.gigabytes, asked.kind, asked.keep)
    rate = found.bytes / 1e6 / found.seconds
    print(f"{'source':10}{'GB':>6}{'shards':>8}{'shard MiB':>11}{'seconds':>9}{'MB/s':>7}{'peak MiB':>10}")
    print(
        f"{asked.kind:10}{found.bytes / 1e9:6.1f}{SHARDS:8}{found.shard_mib:11.1f}{found.seconds:9.1f}{rate:7.0f}"
        f"{found.peak_mib:10.0f}"
    )
    figures = {
        "peak_mib": round(found.peak_mib, 1),
        "seconds": round(found.seconds, 2),
        "mb_per_s": round(rate, 1),
        "shard_mib": round(found.shard_mib, 1),
    }
    print(json.dumps({"bench": "ingest", "figures": figures}))


if __name__ == "__main__":
    main()
