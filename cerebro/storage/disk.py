"""How fast the disk is under the feature store: measured once for a machine and a disk, and remembered.

What is measured is what is done: a file of the store is hashed, written, synced and renamed, read and verified, and
then mapped and copied as a visit does it. It takes about 0.2 s, and only plans that could store something ask for it.
"""

import json
import math
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cerebro.storage.features import FeatureStore, Stored

_BYTES = 16 << 20
_READS = 4


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """What a column costs to store and to read; the defaults are rounded down from what disks and one core give."""

    write_bytes_per_second: float = 4e8
    """With the hash, the sync, and the hash again where it is first read."""
    read_bytes_per_second: float = 2e9
    """Of a file that was written a moment ago."""


def disk_speed(folder: Path) -> DiskSpeed:
    """The speed under `folder`: the remembered one, or measured now; the default where that cannot be done."""
    notes = folder.with_name(f"{folder.name}.speed.json")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = {"machine": platform.node(), "device": os.stat(folder).st_dev}
        remembered = _remembered(notes, where)
        if remembered is not None:
            return remembered
        found = measured(folder)
        notes.write_text(json.dumps({**where, **asdict(found)}))
        return found
    except OSError:
        return DiskSpeed()


def measured(folder: Path) -> DiskSpeed:
    """Write a file beside those of the store, read it, and remove it.

    Raises:
        OSError: the folder cannot be written.
    """
    content = memoryview(os.urandom(1 << 20) * (_BYTES >> 20))
    with TemporaryDirectory(dir=folder.parent, prefix=".speed-") as scratch:
        store = FeatureStore(Path(scratch), 2 * _BYTES, since=0.0)
        begun = time.perf_counter()
        if not store.write("speed", [Stored("speed", "uint8", (_BYTES,), content)]) or store.read("speed") is None:
            raise OSError(f"nothing can be kept under {folder}")
        wrote = time.perf_counter()
        for _ in range(_READS):
            for column in store.read("speed") or ():
                column.content.tobytes()
        read = time.perf_counter()
    return DiskSpeed(_BYTES / (wrote - begun), _READS * _BYTES / (read - wrote))


def _remembered(notes: Path, where: dict[str, str | int]) -> DiskSpeed | None:
    """What was measured earlier on the same machine and disk; what cannot be read is not remembered."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        values = json.loads(notes.read_text())
        speeds = float(values["write_bytes_per_second"]), float(values["read_bytes_per_second"])
        if {name: values[name] for name in where} == where and all(math.isfinite(s) and s > 0 for s in speeds):
            return DiskSpeed(*speeds)
    return None
