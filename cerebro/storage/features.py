"""The feature store: derived columns of shards as files that are named by all that they are a function of.

Whoever writes a name writes the same content, so any worker may. A file is complete or absent (temporary name, sync,
rename); it is hashed when it is first opened, and a damaged one is removed and computed again. Nothing depends on a
file's being kept: where there is no room, none is written.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cerebro.storage.checkpoints import sync_folder

_MAGIC = b"CRBFEAT1"
_PREFIX = struct.Struct("<8s32sQ")
_ALIGN = 64
_SUFFIX = ".features"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Stored:
    """One derived column: its name, its type, its shape, and its content."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: memoryview


class FeatureStore:
    """The files under `folder`, of at most `budget_bytes` in all.

    Room is made by dropping the least recently used, but none that was used since `since` (seconds since 1970): what
    one run goes through again and again would else drop itself.
    """

    def __init__(self, folder: Path, budget_bytes: int, since: float) -> None:
        self.folder, self._budget_bytes, self._since = folder, budget_bytes, since
        self._verified: dict[str, tuple[int, int]] = {}

    def read(self, key: str) -> list[Stored] | None:
        """The columns under `key`, mapped; None if there are none, or they are damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            stamp = (status.st_ino, status.st_size)
            found = parsed(mapped, key, verify=self._verified.get(key) != stamp)
            if self._verified.get(key) != stamp:
                os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        self._verified[key] = stamp
        return found

    def write(self, key: str, columns: Sequence[Stored]) -> bool:
        """Keep columns under `key`, if there is room; gives whether they are kept."""
        contents = encoded(key, columns)
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}-{key}"
        try:
            if not self.has_room(sum(len(content) for content in contents), key):
                return False
            _write_synced(temporary, contents)
            temporary.rename(self._path(key))
            sync_folder(self.folder)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True

    def has_room(self, size: int, key: str) -> bool:
        """Whether `size` bytes more can be kept under `key`; what that needs is dropped.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = dict[Path, os.stat_result]()
        for path in self.folder.iterdir():
            with suppress(OSError):  # another worker may have dropped it
                if key not in path.name:  # its parts, which are to go
                    files[path] = path.stat()
        left = self._budget_bytes - sum(status.st_size for status in files.values()) - size
        old = sorted((path for path in files if files[path].st_mtime < self._since), key=lambda p: files[p].st_mtime)
        if left + sum(files[path].st_size for path in old) < 0:
            return False
        for path in old:
            if left >= 0:
                break
            path.unlink(missing_ok=True)
            left += files[path].st_size
        return True

    def holds(self, key: str) -> bool:
        """Whether there is a file for `key`."""
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


def encoded(key: str, columns: Sequence[Stored]) -> list[bytes | memoryview]:
    """A file of columns: a head with the hash of all else, and the contents, each at a multiple of 64 bytes."""
    contents, rows = list[bytes | memoryview](), list[list[object]]()
    offset = 0
    for column in columns:
        rows.append([column.name, column.dtype, column.shape, offset, len(column.content)])
        padding = -len(column.content) % _ALIGN
        contents += [column.content, bytes(padding)]
        offset += len(column.content) + padding
    text = json.dumps({"key": key, "columns": rows}, separators=(",", ":")).encode()
    text += b" " * (-(_PREFIX.size + len(text)) % _ALIGN)
    found = hashlib.sha256(text)
    for content in contents:
        found.update(content)
    return [_PREFIX.pack(_MAGIC, found.digest(), len(text)) + text, *contents]


def parsed(file: memoryview, key: str, verify: bool) -> list[Stored]:
    """The columns in a file.

    Raises:
        ValueError: it is not what was written under `key`.
    """
    if len(file) < _PREFIX.size:
        raise ValueError("cut short")
    magic, expected, length = _PREFIX.unpack_from(file)
    if magic != _MAGIC or (verify and hashlib.sha256(file[_PREFIX.size :]).digest() != expected):
        raise ValueError("damaged")
    start = _PREFIX.size + length
    head = json.loads(bytes(file[_PREFIX.size : start]))
    if head["key"] != key:
        raise ValueError("another key")
    return [
        Stored(name, dtype, tuple(shape), file[start + offset : start + offset + size])
        for name, dtype, shape, offset, size in head["columns"]
    ]


def _write_synced(path: Path, contents: Sequence[bytes | memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for content in contents:
            file.write(content)
        file.flush()
        os.fsync(descriptor)
