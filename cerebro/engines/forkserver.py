"""A process that has torch loaded and forks a worker in milliseconds whenever it is asked to.

It is started once per driver as `python -m cerebro.engines.forkserver`, with one thread fixed by its environment: a
fork of several would hang. What torch makes of its kernels when they are called first is made before the first fork,
which is half of what a worker would take to start. It ends when its driver does, and its workers end with it. Why not
the one of `multiprocessing`: see docs/decisions/0001-own-forkserver.md.

Nobody is left behind, whatever a worker is doing. The server looks at its driver's process itself: an end of file on
the channel is not enough, as it does not come while a fork of the driver holds a copy of it. The workers are killed by
the kernel when the server ends (PR_SET_PDEATHSIG): their own watch for an end of file is a Python thread, which cannot
act while the user's code holds the interpreter's lock in C. And each leads a process group, so that what the user's
code has started in it ends with it.
"""

import contextlib
import ctypes
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from types import FrameType

from cerebro.engines.channel import Channel, ChannelClosed
from cerebro.errors import EngineError

# What workers need beyond torch itself: an optimizer's first construction imports half of torch (1.5 CPU seconds), and
# the file that declares an experiment, where `build` is, imports what it is declared with (0.2).
_PRELOAD = ("torch", "torch._dynamo", "cloudpickle", "pyarrow", "cerebro.engines.worker", "cerebro.session.experiment")
_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc would give back what a batch frees, and fetch it for the next one: 40 % of the time of a pass of ConvLSTMs.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


class ForkServer:
    """The driver's end: starts workers and says how they ended."""

    def __init__(self) -> None:
        ours, theirs = Channel.pair()
        self._channel, self._lock, self._owner = ours, threading.Lock(), os.getpid()
        self._exits: dict[int, int] = {}
        # The package may be importable only through the driver's own path (a checkout, a notebook's sys.path).
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cerebro.engines.forkserver", str(theirs.fileno()), str(os.getpid())],
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def start_worker(self) -> tuple[int, Channel]:
        """The process id of a new worker, and the channel to it.

        Raises:
            EngineError: the server is dead.
        """
        ours, theirs = Channel.pair()
        try:
            with self._lock:
                self._channel.send(b"fork", [theirs.fileno()])
                while "pid" not in (reply := self._next_reply()):
                    pass
            return reply["pid"], ours
        except ChannelClosed:
            ours.close()
            raise EngineError(f"the process that starts workers ended with status {self._process.wait()}") from None
        finally:
            theirs.close()

    def exit_status(self, pid: int, timeout_seconds: float = 2.0) -> int | None:
        """How a worker ended: its exit code, or minus the signal that killed it; None if that is not known in time."""
        with self._lock, contextlib.suppress(ChannelClosed):
            while pid not in self._exits and select.select([self._channel], [], [], timeout_seconds)[0]:
                self._next_reply()
        return self._exits.pop(pid, None)

    @property
    def alive(self) -> bool:
        """Whether this process can ask it for workers; a fork of the driver cannot."""
        return self._owner == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """End the server; its workers end with the channels to them."""
        self._channel.close()
        self._process.wait()

    def _next_reply(self) -> dict[str, int]:
        reply = json.loads(self._channel.receive()[0])
        if "exited" in reply:
            self._exits[reply["exited"]] = reply["status"]
        return reply


@functools.cache
def _servers() -> list[ForkServer]:
    return []


def shared_fork_server() -> ForkServer:
    """The fork server of this process, started on first use, and again should it have died."""
    servers = _servers()
    if not servers or not servers[-1].alive:
        servers.append(ForkServer())
    return servers[-1]


def _serve(channel: Channel, driver: int | None, workers: set[int]) -> None:
    """Fork a worker for each request; ends when the driver, or its end of the channel, is gone.

    `workers` holds those that have not ended.
    """
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    watched = [channel, wake_reader] if driver is None else [channel, wake_reader, driver]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if driver in ready:
            return
        if wake_reader in ready:
            os.read(wake_reader, 4096)
            _report_exits(channel, workers)
        if channel in ready:
            _, (descriptor,) = channel.receive()
            server, pid = os.getpid(), os.fork()
            if pid == 0:
                _tie_to(server)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                channel.close()
                _become_worker(Channel.from_descriptor(descriptor))
            workers.add(pid)
            os.close(descriptor)
            channel.send(json.dumps({"pid": pid}).encode())


def _tie_to(server: int) -> None:
    """Let this new worker be killed when the server ends, and lead a process group of its own."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before the kernel knew
        os._exit(1)


def _become_worker(channel: Channel) -> None:
    status = 1
    try:
        importlib.import_module("cerebro.engines.worker").main(channel)
        status = 0
    finally:
        os._exit(status)  # never return into the server's loop, whatever the worker did


def _report_exits(channel: Channel, workers: set[int]) -> None:
    """Tell the driver which workers have ended and how, and end what they have started."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            # Before it is reaped, while nobody else can have its number. A process that a worker has forked holds
            # its channel: the driver would wait for an end of file.
            _kill_group(ended.si_pid)
            workers.discard(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            exited = {"exited": pid, "status": os.waitstatus_to_exitcode(status)}
            channel.send(json.dumps(exited).encode())


def _kill_group(worker: int) -> None:
    """End a worker and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Signals only have to wake the loop."""


def _watched(pid: int) -> int | None:
    """A descriptor that can be read when our parent `pid` has ended, where the system has that."""
    if not hasattr(os, "pidfd_open"):
        return None
    descriptor = os.pidfd_open(pid)
    if os.getppid() != pid:  # it had ended before, and another process may have its number
        raise ChannelClosed("the driver is gone")
    return descriptor


def _preload(driver: int | None) -> None:
    """Load all that workers need, which takes seconds; ends this process should the driver end meanwhile."""
    reader, writer = os.pipe()
    watched = [reader] if driver is None else [reader, driver]

    def watch() -> None:
        if driver in select.select(watched, [], [])[0]:
            os._exit(1)

    thread = threading.Thread(target=watch, name="driver")
    thread.start()
    for name in _PRELOAD:
        importlib.import_module(name)
    importlib.import_module("cerebro.training.devices").one_thread()
    importlib.import_module("cerebro.training.fingerprint").warm_up()
    os.close(writer)
    thread.join()  # there must be one thread when workers are forked
    os.close(reader)


def main() -> None:
    """Preload, then serve until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    # Arrow's allocator has a thread, which sees to forks itself.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    channel = Channel.from_descriptor(int(sys.argv[1]))
    workers = set[int]()
    with contextlib.suppress(ChannelClosed, ProcessLookupError):
        driver = _watched(int(sys.argv[2]))
        _preload(driver)
        _serve(channel, driver, workers)
    for worker in workers:
        _kill_group(worker)
    os._exit(0)  # without tidying up torch, which takes a while: the workers end when this process has


if __name__ == "__main__":
    main()
