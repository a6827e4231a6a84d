"""Checkpoints: states of models as files that are named by their content.

A file is complete or absent: it is written under another name in the same folder, synced, and renamed to its digest.
What is read is hashed again, so that a damaged file is never taken for a state.

While a run goes on, the file of a state that no model needs any more is written over by the next one: the file system
has nothing to note then, which costs a fifth of making a file and deleting one. The new name is not synced; a power cut
may leave a state under the name of the one before. Its content tells which one it is (`give_names`).
"""

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from cerebro.errors import StoreError
from cerebro.ids import digest_bytes
from cerebro.storage.crash_points import crash_point
from cerebro.storage.writing import writing

_SUFFIX = ".state"
_TEMPORARY = ".tmp-"
_DAMAGE = (errno.EIO, getattr(errno, "EUCLEAN", errno.EIO), errno.EBADMSG)
"""What a disk, or the file system on it, says of a file that it has lost."""
_SPARE_MIN = 4
"""So many files may wait to be written over, or as many as were written at once."""
_SPARE_BYTES = 16 << 20
"""Larger ones are deleted: the disk may be wanted for something else, and what a new file costs does not grow."""


class Checkpoints:
    """The states of one experiment, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._spare: dict[str, int] = {}
        """Files of states that nobody needs, oldest first, and their sizes in bytes."""
        self._spare_max = _SPARE_MIN

    def path(self, state_digest: str) -> Path:
        """Where the state with this digest is, or would be."""
        return Path(self._path(state_digest))

    def _path(self, state_digest: str) -> str:
        """The same as text: a `Path` is half of what it costs to note that a file is spare."""
        return f"{self.folder}/{state_digest}{_SUFFIX}"

    def write(self, state: memoryview, state_digest: str) -> None:
        """Make `state` durable under its digest; as `write_all`."""
        self.write_all({state_digest: state})

    def write_all(self, states: Mapping[str, memoryview]) -> None:
        """Make states durable under their digests; returns when a power cut can no longer lose one.

        A file that is there already is written again: it may be damaged, or its name not be durable. Spare files are
        written over; where there are none, files are made, and their names are durable too.

        Raises:
            StoreError: the disk is full, read-only or broken; no file is there under a name that it does not deserve.
        """
        if not states:
            return
        with writing(self.folder):
            make_folder(self.folder)
        self._spare_max = max(self._spare_max, len(states))
        is_new = False
        for state_digest, state in states.items():
            path = self._path(state_digest)
            spare = self._taken_spare(path, len(state))
            is_new |= spare is None
            with writing(path, len(state)):
                _place(path, state, spare)
        if is_new:
            with writing(self.folder):
                sync_folder(self.folder)
        crash_point("checkpoint-ended")

    def read(self, state_digest: str) -> bytes:
        """The state with this digest.

        Raises:
            StoreError: the file is missing or its content has another digest.
        """
        path = self.path(state_digest)
        try:
            state = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path} is missing: its model has to be trained again from an older state") from None
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise StoreError(f"{path} is damaged: the disk cannot read it ({error.strerror})") from error
        found = digest_bytes(state)
        if found != state_digest:
            raise StoreError(f"{path} is damaged: expected sha256 {state_digest}, found {found}")
        return state

    def spare(self, state_digest: str) -> None:
        """Let the file of this state, which nobody needs any more, be written over."""
        path = self._path(state_digest)
        with writing(path), contextlib.suppress(FileNotFoundError):
            size = os.stat(path).st_size
            if size > _SPARE_BYTES:
                os.unlink(path)
                return
            self._spare[path] = size
            if len(self._spare) > self._spare_max:
                os.unlink(self._taken_oldest())

    def _taken_spare(self, path: str, size: int) -> str | None:
        """A file to write over, if one may be: that of this name, or one of this size, as a file is slow to resize."""
        same_size = (each for each, its in self._spare.items() if its == size)
        fitting = path if path in self._spare else next(same_size, None)
        if fitting is not None:
            del self._spare[fitting]
            return fitting
        return self._taken_oldest() if len(self._spare) == self._spare_max else None

    def _taken_oldest(self) -> str:
        oldest = next(iter(self._spare))
        del self._spare[oldest]
        return oldest

    def delete_spare(self) -> None:
        """Delete the files that wait to be written over, and make the names of all others durable."""
        if not self.folder.is_dir():
            return
        with writing(self.folder):
            while self._spare:
                _remove(self._taken_oldest())
            sync_folder(self.folder)

    def give_names(self, needed: Collection[str]) -> None:
        """Give states that are needed their own names, where a power cut took these away.

        Raises:
            StoreError: the folder cannot be written.
        """
        digests = self.digests()
        missing = {*needed} - digests
        for path in [self.path(other) for other in sorted(digests - {*needed})] if missing else ():
            try:
                found = digest_bytes(path.read_bytes())
            except OSError:  # gone, or damaged: nothing can be had from it
                continue
            if found in missing:
                with writing(path):
                    path.rename(self.path(found))
                    sync_folder(self.folder)

    def remove(self, state_digest: str) -> None:
        """Delete the state with this digest, if it is there."""
        path = self.path(state_digest)
        with writing(path):
            path.unlink(missing_ok=True)

    def digests(self) -> set[str]:
        """The digests of all states that are here."""
        return {path.stem for path in self.folder.glob(f"*{_SUFFIX}")}

    def leftovers(self) -> list[Path]:
        """The temporary files of writers that died, or that write now."""
        return sorted(self.folder.glob(f"{_TEMPORARY}*"))

    def collect(self, needed: Collection[str]) -> None:
        """Delete every state but those with these digests, and temporary files; only for who holds the experiment.

        What a driver that died had written and not yet recorded, or recorded as unneeded and not yet deleted, goes. A
        state that is needed and lies under another's name gets its own first.

        Raises:
            StoreError: the folder cannot be written.
        """
        self.give_names(needed)
        for path in [*self.folder.glob(f"{_TEMPORARY}*"), *self.folder.glob(f"*{_SUFFIX}")]:
            if path.name.startswith(_TEMPORARY) or path.name.removesuffix(_SUFFIX) not in needed:
                with writing(path):
                    path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a private folder if it is not there, and those above it, so that a power cut cannot take one away."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; there the rename itself is all that can be had.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


_sync_content: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Makes the content of a file durable, and not when it was last changed."""


def _place(path: str, state: memoryview, spare: str | None) -> None:
    """Put a file in its place, whole, in that of a spare one if there is one.

    The name of a new one is durable when the folder is.
    """
    folder, _, name = path.rpartition("/")
    draft = spare or f"{folder}/{_TEMPORARY}{os.getpid()}-{name.removesuffix(_SUFFIX)}"
    crash_point("checkpoint-begun")
    try:
        _write_synced(draft, state)
        os.rename(draft, path)
    except BaseException:
        _remove(draft)
        raise
    crash_point("checkpoint-renamed")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _write_synced(path: str, content: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        written = 0
        while written < len(content):
            written += file.write(content[written:])
        if os.fstat(descriptor).st_size > written:
            file.truncate(written)
        crash_point("checkpoint-written")
        _sync_content(descriptor)
        crash_point("checkpoint-synced")
