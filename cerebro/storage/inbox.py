"""The inbox: what was asked of an experiment and is not yet carried out, one durable file each, in order.

Anybody who may write the folder puts; only who holds the experiment takes. A file is complete or absent: it is
written under a temporary name, synced and renamed; then the folder is synced. It ends with a digest, so that a damaged
text is never taken for what was asked.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cerebro.ids import check_name, digest
from cerebro.storage.checkpoints import sync_folder
from cerebro.storage.writing import writing

DAMAGED = "damaged: "

_TEMPORARY = ".tmp-"
_NAME = re.compile(r"([0-9]{12,})-([a-z0-9-]{1,64})\.json")


class Inbox:
    """The queue under `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "inbox"

    def put(self, id: str, text: str) -> None:
        """Make `text` durable at the end of the queue; nothing if something of this id waits in it.

        Raises:
            SpecError: the id is not a name.
            StoreError: the disk is full, read-only or broken; nothing was put.
        """
        check_name(id, "id of an order")
        content = f"{text}\n{_seal(id, text)}\n".encode()
        with writing(self.folder / id, len(content)), self._locked():
            waiting = self._names()
            if id in (waits for _, waits in waiting):
                self._sync()  # its name may not be durable, if whoever put it has just died
                return
            number = 1 + max((number for number, _ in waiting), default=0)
            self._place(self._path(number, id), content)

    def pending(self) -> list[tuple[str, str]]:
        """What waits, the id and the text of each, in order; cheap where there is nothing.

        Before one that is not what was put stands `DAMAGED`, so that it is refused where it is parsed.

        Raises:
            StoreError: it cannot be read.
        """
        found: list[tuple[str, str]] = []
        with writing(self.folder):
            for number, id in self._names():
                with suppress(FileNotFoundError):  # it was taken meanwhile
                    found.append((id, _checked(id, self._path(number, id).read_bytes())))
        return found

    def remove(self, ids: Collection[str]) -> None:
        """Take these out of the queue, durably; those that are not there are no matter.

        Raises:
            StoreError: the folder cannot be written.
        """
        with writing(self.folder):
            gone = [(number, id) for number, id in self._names() if id in ids]
            for number, id in gone:
                self._path(number, id).unlink(missing_ok=True)
            if gone:
                sync_folder(self.folder)

    def _names(self) -> list[tuple[int, str]]:
        """The number and the id of each, in order."""
        try:
            matches = [_NAME.fullmatch(name) for name in os.listdir(self.folder)]
        except FileNotFoundError:
            return []
        return sorted((int(match[1]), match[2]) for match in matches if match)

    def _path(self, number: int, id: str) -> Path:
        return self.folder / f"{number:012d}-{id}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among those who put, so that numbers rise; the system lets go if this process dies."""
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _place(self, path: Path, content: bytes) -> None:
        """Make a file durable; the lock is held, so that temporary files are of writers that died."""
        for left in self.folder.glob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)
        temporary = path.with_name(f"{_TEMPORARY}{path.name}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            self._sync()
        except BaseException:
            for each in (temporary, path):  # what is told to have failed must not be done later
                each.unlink(missing_ok=True)
            raise

    def _sync(self) -> None:
        for folder in (self.folder, self.folder.parent):
            sync_folder(folder)


def _seal(id: str, text: str) -> str:
    return digest([id, text])


def _checked(id: str, content: bytes) -> str:
    """The text that was put, or what is there instead, marked."""
    found = content.decode(errors="replace")
    text, _, seal = found.removesuffix("\n").rpartition("\n")
    return text if content.endswith(b"\n") and seal == _seal(id, text) else DAMAGED + found
