"""A folder that appears whole or not at all: made beside its place under a hidden name, and renamed at the end.

`.NAME.partial-PID` is a folder being made; its maker holds a lock on it. `.NAME.replaced-PID` is what `overwrite`
moves out of the way for an instant. What a dead process left under these names is removed, or put back, by the next.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cerebro.errors import DataError
from cerebro.storage.manifest import FILE, is_manifest


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a dataset is to be."""

    path: Path
    overwrite: bool

    def check(self, source: object) -> None:
        """Refuse what could not be done, or what would destroy something else.

        Raises:
            DataError: it cannot be written, there is something already, or the source is inside of it.
        """
        path = self.path
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            why = "may not be written by you" if above.is_dir() else "is not a folder"
            raise DataError(f"cannot write {path}: {above} {why}; give another destination")
        if not os.path.lexists(path):
            return
        if not self.overwrite:
            raise DataError(f"{path} exists already: give another destination, or overwrite=True to replace it")
        if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not is_manifest(path / FILE)):
            raise DataError(f"{path} is not a dataset, so overwrite=True does not replace it: remove it yourself")
        if isinstance(source, str | os.PathLike) and Path(os.fspath(source)).resolve().is_relative_to(path.resolve()):
            raise DataError(f"the source {source} is inside {path}, which overwrite=True removes: move it first")

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty folder to fill; it takes its place at the end, and is removed if anything is raised.

        Raises:
            DataError: another process is making it, or it cannot be written.
        """
        folder = self._hidden("partial")
        parent = self.path.parent
        parent.mkdir(parents=True, exist_ok=True)
        lock = -1
        try:
            with _locked(parent):
                self._remove_leftovers()
                folder.mkdir(mode=0o700)
                lock = _lock(folder)
            yield folder
            sync(folder)
            with _locked(parent):
                self._put_in_place(folder)
            sync(parent)
        finally:
            if lock >= 0:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)

    def _put_in_place(self, folder: Path) -> None:
        if not self.overwrite or not self.path.exists():
            if os.path.lexists(self.path):
                raise DataError(f"{self.path} appeared meanwhile: give another destination, or overwrite=True")
            folder.rename(self.path)
            return
        old = self._hidden("replaced")
        self.path.rename(old)
        try:
            folder.rename(self.path)
        except BaseException:
            old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for folder, owner in self._found("partial"):
            try:
                os.close(_lock(folder))
            except BlockingIOError:
                raise DataError(f"process {owner} is making {self.path} now: wait for it, or stop it first") from None
            shutil.rmtree(folder)
        for folder, _ in self._found("replaced"):
            if os.path.lexists(self.path):
                shutil.rmtree(folder)
            else:
                folder.rename(self.path)
                self.check(None)

    def _found(self, kind: str) -> Iterator[tuple[Path, str]]:
        pattern = re.compile(rf"\.{re.escape(self.path.name)}\.{kind}-(\d+)")
        for folder in sorted(self.path.parent.iterdir()):
            match = pattern.fullmatch(folder.name)
            if match:
                yield folder, match[1]

    def _hidden(self, kind: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{kind}-{os.getpid()}")


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed, or its process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the moment in which names in it are looked at and changed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
