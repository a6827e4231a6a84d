"""A channel between two processes: frames of bytes over a socket, with descriptors beside them.

No pickle: a frame is whatever bytes its sender wrote, and the two ends agree that it is JSON. One exception is the
first frame that a driver sends to its own workers, which holds the user's functions.
"""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence

_HEAD = struct.Struct("<Q")
_MAX_DESCRIPTORS = 253  # as many as a system sends at once: a pass takes two for each of its models


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a pair; frames arrive whole and in order."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        """Two connected ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> "Channel":
        """The end that another process passed on."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, and copies of open descriptors with it.

        Raises:
            ChannelClosed: the other end is gone.
        """
        try:
            socket.send_fds(self._socket, [_HEAD.pack(len(frame))], list(descriptors))
            self._socket.sendall(frame)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[bytes, list[int]]:
        """The next frame, and the descriptors that came with it; waits for them.

        Raises:
            ChannelClosed: the other end is gone.
        """
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _HEAD.size, _MAX_DESCRIPTORS)
            head += self._exactly(_HEAD.size - len(head)) if head else b""
            if not head:
                raise ChannelClosed("end of file")
            return self._exactly(_HEAD.unpack(head)[0]), descriptors
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def on_hang_up(self, act: Callable[[], None]) -> None:
        """Call `act`, from a thread of its own, when the other end is gone."""
        poll = select.poll()
        poll.register(self._socket, 0)  # hang-ups are always reported

        def watch() -> None:
            poll.poll()
            act()

        threading.Thread(target=watch, name="hang-up", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            received = self._socket.recv_into(view)
            if not received:
                raise ChannelClosed("end of file")
            view = view[received:]
        return bytes(buffer)
