"""Several workers compute one thing in parts, each part once: what one has done, the others read.

A part is a file that its maker holds a lock on. The system lets go of it when the maker dies, and another goes on; what
a maker that died has left is seen by its hash. The files are scratch: they are removed when the whole is stored.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cerebro.storage.features import Stored, encoded, parsed

Columns = Sequence[Stored]


class Parts:
    """The parts of what will be stored under `key` in `folder`."""

    def __init__(self, folder: Path, key: str, count: int) -> None:
        self._key = key
        self._paths = [folder / f"{prefix(key)}{part}" for part in range(count)]

    def gathered(self, make: Callable[[int], Columns], is_stored: Callable[[], bool]) -> list[Columns] | None:
        """Every part, made here or by another worker; None once the whole `is_stored`.

        Raises:
            OSError: the folder cannot be written.
        """
        found: dict[int, Columns] = {}
        for waits in (False, True):  # first what nobody makes, then what is left: its maker may die
            for part, path in enumerate(self._paths):
                if part in found:
                    continue
                with _held(path, waits) as descriptor:
                    if descriptor is None:
                        continue
                    if is_stored():
                        return None
                    found[part] = self._read(descriptor) or self._made(descriptor, make(part))
        return [found[part] for part in range(len(self._paths))]

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            with suppress(OSError):
                path.unlink()

    def _read(self, descriptor: int) -> Columns | None:
        content = memoryview(bytearray(os.pread(descriptor, os.fstat(descriptor).st_size, 0)))
        try:
            return parsed(content, self._key, verify=True)
        except ValueError:
            return None

    def _made(self, descriptor: int, columns: Columns) -> Columns:
        os.ftruncate(descriptor, 0)
        with open(descriptor, "wb", closefd=False) as file:
            for content in encoded(self._key, columns):
                file.write(content)
        return columns


def prefix(key: str) -> str:
    """What the names of the parts of `key` begin with."""
    return f".part-{key}-"


@contextmanager
def _held(path: Path, waits: bool) -> Iterator[int | None]:
    """The file, locked; None while another process holds it, unless this one is to wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield descriptor
    finally:
        os.close(descriptor)
