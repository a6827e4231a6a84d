"""The console of a live run: a Unix socket in the experiment's folder that takes orders, one line each.

Only who may enter the folder reaches it, and it is the user's own (0600). An order is durable in the inbox before it is
answered; the run takes it from there.
"""

import importlib
import os
import selectors
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from cerebro.control.orders import LIMIT_BYTES, Order, Reply, order_text, parse_request, reply_text
from cerebro.control.validation import Facts, check, cost
from cerebro.errors import CerebroError, StoreError
from cerebro.storage.inbox import Inbox

SOCKET = "control.sock"

PATH_BYTES_MAX = 107
"""The longest path that a Unix socket may have."""

LINE_BYTES_MAX = LIMIT_BYTES + 1024
"""The longest line: an order, and what is said around it."""

_TEMPORARY = ".control.sock"
_PATIENCE_SECONDS = 5.0
_BACKLOG = 16


def _nothing() -> None:
    pass


class Console:
    """Takes orders while it is entered; the folder is held.

    `facts` is asked anew for every order, in the console's own thread. `wake` is called, in that thread too, after an
    order was accepted.
    """

    def __init__(self, folder: Path, facts: Callable[[], Facts], wake: Callable[[], None] = _nothing) -> None:
        self._folder, self._facts, self._wake = folder, facts, wake
        self._inbox = Inbox(folder)

    def __enter__(self) -> "Console":
        """Begin to take orders.

        Raises:
            StoreError: the socket cannot be made.
        """
        self._listener = _listener(self._folder)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="console", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take no more orders; an answer that is being given is given."""
        self._stop.close()
        self._thread.join()
        with suppress(OSError):
            (self._folder / SOCKET).unlink()
        self._listener.close()
        self._stopped.close()

    def _serve(self) -> None:
        importlib.import_module("cerebro.control.forms")  # slow to load: not when the first order waits for its answer
        while self._is_ready(self._listener, None):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # such as too many open files: others may close theirs
                _readable([self._stopped], 0.1)
                continue
            with connection, suppress(OSError):  # a client that has gone needs no answer
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        line = self._line(connection, deadline)
        if not line:
            return
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.sendall(reply_text(self._reply(line)).encode() + b"\n")

    def _line(self, connection: socket.socket, deadline: float) -> bytes:
        """What a client says, up to the first line end; nothing from one that falls silent or leaves."""
        said = b""
        while b"\n" not in said and len(said) <= LINE_BYTES_MAX:
            if not self._is_ready(connection, deadline) or not (part := connection.recv(1 << 16)):
                return b""
            said += part
        return said.partition(b"\n")[0] + b"\n"

    def _is_ready(self, source: socket.socket, deadline: float | None) -> bool:
        """Wait until there is something to read; gives no at the deadline, or when the console ends."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = _readable([source, self._stopped], timeout)
        return source in ready and self._stopped not in ready

    def _reply(self, line: bytes) -> Reply:
        try:
            request = parse_request(line.decode())
            facts = self._facts()
            text = check(request.order.command, facts)
            if request.dry_run:
                return Reply(True, False, f"{text}; it {cost(request.order.command, facts)}")
            return self._accepted(request.order, text)
        except CerebroError as error:
            return Reply(False, False, str(error), error=type(error).__name__)
        except (OSError, ValueError) as error:
            return Reply(False, False, f"the order cannot be taken: {error}", error="StoreError")

    def _accepted(self, order: Order, text: str) -> Reply:
        self._inbox.put(order.id, order_text(order))
        self._wake()
        return Reply(True, False, text, order.id)


def _readable(sources: Sequence[socket.socket], timeout: float | None) -> list[object]:
    """Those that have something to read; `select.select` would fail in a process with a thousand open files."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]


def _listener(folder: Path) -> socket.socket:
    """A socket that listens under its name in `folder`; it appears there only when it does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.set_inheritable(listener.fileno(), False)
        with suppress(OSError):  # Linux gives the file this mode from the first
            os.fchmod(listener.fileno(), 0o600)
        # What lies there is of a driver that died: the folder is held.
        (folder / _TEMPORARY).unlink(missing_ok=True)
        with address(folder, _TEMPORARY) as name:
            listener.bind(name)
        (folder / _TEMPORARY).chmod(0o600)
        listener.listen(_BACKLOG)
        (folder / _TEMPORARY).rename(folder / SOCKET)
    except OSError as error:
        listener.close()
        raise StoreError(
            f"cannot make {folder / SOCKET}, where orders are taken: {error.strerror or error}; "
            "give a --store on a local file system"
        ) from error
    return listener


@contextmanager
def address(folder: Path, name: str = SOCKET) -> Iterator[str]:
    """The address of a socket in `folder`, as short as a Unix socket needs it.

    Raises:
        OSError: the folder is not there, or its path is too long for this system.
    """
    path = os.fspath(folder.absolute() / name)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    if not sys.platform.startswith("linux"):
        raise OSError(f"its path has more than {PATH_BYTES_MAX} bytes")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def has_socket(folder: Path) -> bool:
    """Whether there is a console's socket in `folder`, be it of a run that is alive or of one that died."""
    try:
        return stat.S_ISSOCK(os.stat(folder / SOCKET).st_mode)
    except OSError:
        return False
