"""What a plan may take of this machine: free memory, and the disk that derived columns may use."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cerebro.errors import SpecError
from cerebro.plan.features import MODES, Features
from cerebro.quantities import bytes_text, count_text, parse_bytes

_FREE_SHARE = 0.5
"""The share of what is free, of a disk or of memory, that is taken at most."""


def as_features(value: Features | str, folder: Path) -> Features:
    """What the caller says of derived columns; `folder` is where they would be stored.

    Raises:
        SpecError: not one of the modes.
    """
    features = value if isinstance(value, Features) else Features(value)  # type: ignore[arg-type]  # checked next
    if features.mode not in MODES:
        raise SpecError(f"features: {features.mode!r} is not one of {', '.join(MODES)}")
    return replace(features, folder=features.folder or str(folder.absolute()), since=time.time())


def shard_limit(value: int | str | None, sizes: Sequence[int], workers: int) -> int | None:
    """How many bytes of shards of these `sizes` memory may hold, as the caller says; half of what is free by default.

    None where that is all of them.

    Raises:
        SpecError: not a number of bytes, or not enough for the largest shard on each worker.
    """
    needed, total = workers * max(sizes), sum(sizes)
    if value is None:
        free = free_memory_bytes()
        return None if free is None or free * _FREE_SHARE >= total else max(round(free * _FREE_SHARE), needed)
    limit = parse_bytes(value) if isinstance(value, str) else value
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise SpecError(f"shard_memory: {value!r} is not a size such as '2GB', '512MiB', or a number of bytes")
    if limit < min(needed, total):
        raise SpecError(
            f"shard_memory: {bytes_text(limit)} cannot hold a shard on each of {count_text(workers, 'worker')}, the "
            f"largest has {bytes_text(max(sizes))}: give {bytes_text(needed)}, use fewer workers, or ingest into more "
            "shards"
        )
    return limit if limit < total else None


def free_disk_bytes(features: Features) -> float:
    """What derived columns may take: what they have by now, and no more than a part of what is free."""
    if not features.folder:
        return 0.0
    path = Path(features.folder)
    folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
    held = sum(file.stat().st_size for file in os.scandir(folder)) if folder == path else 0
    return held + shutil.disk_usage(folder).free * _FREE_SHARE


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping, where the system says."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
