"""What killed a worker: a signal, its own exit, or the system when memory ran out."""

import signal
from pathlib import Path

_ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")
"""What torch says, in a plain RuntimeError, when memory runs out on one device or another."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in whatever words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _ALLOCATION)


class OomKills:
    """Counts processes that the system killed for memory, where the control group of this process says so."""

    def __init__(self) -> None:
        self._file = _counter_file()
        self._seen = self._count()

    def rose(self) -> bool:
        """Whether there was another since the last question."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            lines = [line.split() for line in self._file.read_text().splitlines()]
        except OSError:
            return 0
        return next((int(words[1]) for words in lines if words[:1] == ["oom_kill"] and len(words) == 2), 0)


def cause_of_death(status: int | None, oom_kills: OomKills) -> str:
    """An exit status (minus the signal, for one that was killed) in words."""
    if status is None:
        return "it vanished"
    if status == -signal.SIGKILL and oom_kills.rose():
        return "out of memory: the system killed it (SIGKILL)"
    if status < 0:
        return f"killed by {_signal_name(-status)}"
    return f"exited with status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _counter_file(processes: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """The file that counts, in version 2 of control groups or in version 1."""
    try:
        lines = [line.split(":", 2) for line in processes.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in (line for line in lines if len(line) == 3):
        own = path.lstrip("/")
        if controllers == "":
            candidates = [root / own / "memory.events", root / "unified" / own / "memory.events"]
        elif "memory" in controllers.split(","):
            candidates = [root / "memory" / own / "memory.oom_control", root / "memory" / "memory.oom_control"]
        else:
            continue
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    return None
