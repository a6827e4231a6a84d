"""Where experiments live: a folder each under the store, held by at most one driver at a time."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.ids import check_name, digest
from cerebro.storage.catalog import FILE, Catalog, CatalogReader
from cerebro.storage.checkpoints import Checkpoints, make_folder, sync_folder
from cerebro.storage.crash_points import crash_point
from cerebro.storage.writing import writing

DEFAULT = "cerebro.d"
VARIABLE = "CEREBRO_STORE"

_TRIES_MAX, _TRY_SECONDS = 1_000, 0.001


@dataclass(frozen=True, slots=True)
class ExperimentFolder:
    """The folder of one experiment: its catalog, its checkpoints and its lock."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether an experiment was begun here."""
        return (self.path / FILE).is_file()

    @property
    def is_read_only(self) -> bool:
        """Whether the experiment can be looked at only."""
        return self.exists and not os.access(self.path, os.W_OK)

    @property
    def is_finished(self) -> bool:
        """Whether the last run said that every model has ended; a hint, as the catalog may be damaged or absent."""
        try:
            with closing(self.reader()) as reader:
                return reader.experiment()["status"] == "finished"
        except StoreError:
            return False

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "states")

    def reader(self) -> CatalogReader:
        """The catalog, to be read.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        if not self.exists:
            raise StoreError(_unknown(self.path))
        return CatalogReader(self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the experiment, so that nobody else runs it; the system lets go if this process dies.

        Raises:
            StoreError: another process holds it, or the folder cannot be written.
        """
        lock = self._taken_lock()
        try:
            self._remove_scratch()
            yield
        finally:
            self._remove_if_empty()
            os.close(lock)

    def driver(self) -> str | None:
        """The process that holds the experiment (`unknown` where it could not be noted); None if none does."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _locks(lock, fcntl.LOCK_SH) else os.pread(lock, 32, 0).decode().strip() or "unknown"
        finally:
            os.close(lock)

    def _taken_lock(self) -> int:
        while True:
            lock = self._opened_lock()
            if lock is None:
                continue
            try:
                self._take(lock)
            except StoreError:
                os.close(lock)
                raise
            if self._is_in_place(lock):
                return lock
            os.close(lock)

    def _opened_lock(self) -> int | None:
        """The lock file, made if it is not there; None if another process has just removed the empty folder."""
        try:
            make_folder(self.path)
            return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot write the store {self.path.parent}: {error}; give another --store") from error

    def _is_in_place(self, lock: int) -> bool:
        """Whether the lock is still the file of that name: the one that held it may have removed it meanwhile."""
        try:
            return os.path.samestat(os.stat(self.path / "lock"), os.fstat(lock))
        except FileNotFoundError:
            return False

    def _remove_if_empty(self) -> None:
        """Leave nothing behind where no experiment was begun."""
        if not self.exists:
            with suppress(OSError):
                (self.path / "lock").unlink()
                self.path.rmdir()
                self.path.parent.rmdir()

    def _take(self, lock: int) -> None:
        tries = 1
        while not _locks(lock, fcntl.LOCK_EX):
            # Who asks whether the experiment is held shares the lock for a moment; a holder shares it with nobody.
            if tries == _TRIES_MAX or not _locks(lock, fcntl.LOCK_SH):
                holder = os.pread(lock, 32, 0).decode().strip() or "unknown"
                raise StoreError(
                    f"experiment {self.path.name!r} is being run by process {holder}: "
                    "watch it with `cerebro top`, or stop that process first"
                )
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(_TRY_SECONDS)
            tries += 1
        with suppress(OSError):  # on a full disk the holder stays unknown
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _remove_scratch(self) -> None:
        """Remove what is left of a catalog whose maker died; the folder is held."""
        with writing(self._scratch), suppress(FileNotFoundError):
            shutil.rmtree(self._scratch)

    @property
    def _scratch(self) -> Path:
        return self.path / "new"

    def create(
        self,
        experiment: Mapping[str, Any],
        members: Mapping[str, Mapping[str, Any]],
        checkpoints: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Begin an experiment; the folder is held, and the states of `checkpoints` are there.

        The catalog appears whole or not at all: it is made under another name.

        Raises:
            StoreError: the disk is full, read-only or broken.
        """
        with writing(self.path / FILE):
            self._scratch.mkdir(mode=0o700)
            crash_point("create-begun")
            Catalog.create(self._scratch, experiment, members, checkpoints)
            crash_point("create-catalog-written")
            (self._scratch / FILE).rename(self.path / FILE)
            crash_point("create-renamed")
            for folder in (self.path, self.path.parent):
                sync_folder(folder)
            self._scratch.rmdir()
            crash_point("create-ended")


class Store:
    """A folder of experiments."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        """The store at `root`; else where CEREBRO_STORE says; else `./cerebro.d`."""
        self.root = Path(root or os.environ.get(VARIABLE) or DEFAULT)

    def experiment(self, name: str) -> ExperimentFolder:
        """The folder of the experiment `name`, which need not exist.

        Raises:
            SpecError: not a name.
        """
        return ExperimentFolder(self.root / check_name(name))

    @property
    def features(self) -> Path:
        """Where derived columns are stored, for all experiments."""
        return self.root / ".features"

    def remembered_pilot(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a pilot with this key found earlier, if it is remembered."""
        try:
            remembered = json.loads(self._pilot(key).read_text())
            found = remembered["found"]
            return found if remembered["digest"] == digest(found) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember_pilot(self, key: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Keep what a pilot found; nothing depends on its being kept.

        A file that was not written to its end is not JSON, and is not remembered.
        """
        path = self._pilot(key)
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(json.dumps({"digest": digest(found), "found": found}))

    def _pilot(self, key: Mapping[str, Any]) -> Path:
        return self.root / ".pilots" / f"{digest(key)[:32]}.json"


def _locks(lock: int, how: int) -> bool:
    """Whether the lock can be had at once, shared or alone."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unknown(path: Path) -> str:
    others = sorted(p.parent.name for p in path.parent.glob(f"*/{FILE}")) if path.parent.is_dir() else []
    known = f"there are: {', '.join(others)}" if others else "it holds no experiment yet"
    return f"no experiment {path.name!r} in the store {path.parent}; {known}"
