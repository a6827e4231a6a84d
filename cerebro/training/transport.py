"""Shared memory without names: how a state gets from one worker to the next with one copy out and one copy in.

A slot is an anonymous file in memory, known by its descriptor alone. Nothing has to be cleaned up: when the last
process that holds it ends, however it ends, the memory is gone.
"""

import mmap
import os
import tempfile
from dataclasses import dataclass

from cerebro.errors import EngineError
from cerebro.quantities import bytes_text

_GRAIN = 1 << 16


@dataclass(slots=True)
class Slot:
    """One piece of shared memory; any process that holds the descriptor may make it larger."""

    number: int
    descriptor: int
    _map: mmap.mmap | None = None

    def room_for(self, size: int) -> memoryview:
        """A writable view of `size` bytes; the slot grows if it is smaller.

        Raises:
            EngineError: there is no memory left for it.
        """
        if os.fstat(self.descriptor).st_size < size:
            try:
                _reserve(self.descriptor, -(-size // _GRAIN) * _GRAIN)
            except OSError as error:
                raise EngineError(
                    f"no shared memory for a state of {bytes_text(size)} ({error.strerror}): "
                    "use fewer workers or smaller models, or give this process more memory"
                ) from error
        return self.view(size)

    def view(self, size: int) -> memoryview:
        """A view of the first `size` bytes, which somebody has written."""
        if self._map is None or len(self._map) < size:
            try:
                self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
            except (OSError, ValueError) as error:
                raise EngineError(f"cannot map a state of {bytes_text(size)}: {error}") from error
        return memoryview(self._map)[:size]

    def close(self) -> None:
        """Let go of the memory; views that are still in use keep their pages."""
        self._map = None
        os.close(self.descriptor)


def new_slot(number: int) -> Slot:
    """An empty slot.

    Raises:
        EngineError: the system has no shared memory to give.
    """
    try:
        return Slot(number, _anonymous_file(f"cerebro-slot-{number}"))
    except OSError as error:
        raise EngineError(
            f"cannot make shared memory: {error.strerror}; workers need it to hand states over: free some, or use "
            "engine='inline'"
        ) from error


def _reserve(descriptor: int, size: int) -> None:
    """Make a file larger; where the memory for it is missing this fails, and not a later write, by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _anonymous_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
