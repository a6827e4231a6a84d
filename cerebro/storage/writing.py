"""What cannot be written, in one clear error: which file, what it needs, what is free, and what to do."""

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cerebro.errors import StoreError
from cerebro.quantities import bytes_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_FULL_BYTES = 1 << 16
"""A disk with less than this is full, whatever else is said."""


@contextmanager
def writing(path: Path | str, needed_bytes: int = 0) -> Iterator[None]:
    """Turns what the system or SQLite refuses while `path` is written into a `StoreError`.

    A failed sync is never tried again on the same file: the system may have dropped what it could not write.

    Raises:
        StoreError: with the way out; whatever was durable before still is.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"cannot write {path}: {reason}{_way_out(path, needed_bytes, error.errno)}") from error
    except sqlite3.OperationalError as error:
        raise StoreError(f"cannot write {path}: {error}{_way_out(path, needed_bytes, _errno(str(error)))}") from error


def _errno(message: str) -> int:
    """What SQLite's message says, as the system would say it."""
    if "full" in message:
        return errno.ENOSPC
    return errno.EROFS if "readonly" in message or "unable to open" in message else errno.EIO


def _way_out(path: Path | str, needed_bytes: int, number: int | None) -> str:
    free = _free_bytes(Path(path))
    # SQLite calls it an I/O error when its shared index cannot grow.
    if number in _FULL or (free is not None and free < _FULL_BYTES):
        needed = f"{bytes_text(needed_bytes)} needed, " if needed_bytes else ""
        left = "an unknown amount" if free is None else bytes_text(free)
        return f" ({needed}{left} free): free space and run again: it goes on from here"
    if number in _READ_ONLY:
        return ": make it writable, or give another --store, and run again"
    return ": see to the disk, and run again: it goes on from here"


def _free_bytes(path: Path) -> int | None:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
