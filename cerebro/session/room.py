"""What a plan may take of this machine: free memory, and the disk that derived columns may use."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from cerebro.errors import SpecError
from cerebro.plan.features import MODES, Features

_FREE_SHARE = 0.5
"""The share of a disk's free bytes that is taken at most."""


def as_features(value: Features | str, folder: Path) -> Features:
    """What the caller says of derived columns; `folder` is where they would be stored.

    Raises:
        SpecError: not one of the modes.
    """
    features = value if isinstance(value, Features) else Features(value)  # type: ignore[arg-type]  # checked next
    if features.mode not in MODES:
        raise SpecError(f"features: {features.mode!r} is not one of {', '.join(MODES)}")
    return replace(features, folder=features.folder or str(folder.absolute()), since=time.time())


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
