"""Checkpoints: states of models as files that are named by their content.

A file is complete or absent: it is written under a temporary name in the same folder, synced, and renamed to its
digest; then the folder is synced. What is read is hashed again, so that a damaged file is never taken for a state.
"""

import contextlib
import errno
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from cerebro.errors import StoreError
from cerebro.ids import digest_bytes
from cerebro.storage.crash_points import crash_point
from cerebro.storage.writing import writing

_SUFFIX = ".state"
_TEMPORARY = ".tmp-"
_DAMAGE = (errno.EIO, getattr(errno, "EUCLEAN", errno.EIO), errno.EBADMSG)
"""What a disk, or the file system on it, says of a file that it has lost."""


class Checkpoints:
    """The states of one experiment, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, state_digest: str) -> Path:
        """Where the state with this digest is, or would be."""
        return self.folder / f"{state_digest}{_SUFFIX}"

    def write(self, state: memoryview, state_digest: str) -> None:
        """Make `state` durable under its digest; as `write_all`."""
        self.write_all({state_digest: state})

    def write_all(self, states: Mapping[str, memoryview]) -> None:
        """Make states durable under their digests; returns when a power cut can no longer lose one.

        A file that is there already is written again: it may be damaged, or its name not be durable.

        Raises:
            StoreError: the disk is full, read-only or broken; no file is there under a name that it does not deserve.
        """
        if not states:
            return
        with writing(self.folder):
            make_folder(self.folder)
        for state_digest, state in states.items():
            path = self.path(state_digest)
            with writing(path, len(state)):
                _place(path, state)
        with writing(self.folder):
            sync_folder(self.folder)
        crash_point("checkpoint-folder-synced")

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

        What a driver that died had written and not yet recorded, or recorded as unneeded and not yet deleted, goes.

        Raises:
            StoreError: the folder cannot be written.
        """
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


def _place(path: Path, state: memoryview) -> None:
    """Put a file in its place, whole; its name is durable when the folder is."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.stem}")
    crash_point("checkpoint-begun")
    try:
        _write_synced(temporary, state)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    crash_point("checkpoint-renamed")


def _write_synced(path: Path, content: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        crash_point("checkpoint-written")
        os.fsync(file.fileno())
        crash_point("checkpoint-synced")
