"""The border between the user's code and the engines: what raises behind it becomes an event here.

This is the only place that catches everything.
"""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cerebro.engines.deaths import is_out_of_memory
from cerebro.messages import Piloted, PilotFailed, Unit, UnitFailed, UnitFinished
from cerebro.training.train import DivergedError
from cerebro.training.trainer import ShardError, Trainer

T = TypeVar("T")
F = TypeVar("F")
Errors = type[BaseException]

_LINE_MAX = 1_000
_TRACE_MAX = 32_000
"""Characters of a traceback that are kept: one of an endless recursion, or of an array in a message, has no end."""


def guarded(work: Callable[[], T], told: Callable[[str, str, BaseException], F], catch: Errors) -> T | F:
    """What `work` gives, or what `told` makes of its error in one line, its traceback, and the error itself.

    A worker process catches everything, `sys.exit` too; the user's own process only what is an `Exception`.

    Raises:
        ShardError: the dataset is damaged, which is not the fault of the user's code.
    """
    try:
        return work()
    except ShardError:
        raise
    except catch as error:
        trace = "".join(traceback.format_exception(error))
        return told(_shown(_line(error, catch), _LINE_MAX), _shown(trace, _TRACE_MAX), error)


def _line(error: BaseException, catch: Errors) -> str:
    """An error in one line; its `__str__` is the user's code too, and may raise."""
    try:
        message, memory = str(error), is_out_of_memory(error)
    except catch:
        message, memory = "its message cannot be shown, since its __str__ raises", False
    lines = message.strip().splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"out of memory: {line}" if memory else line


def _shown(text: str, limit: int) -> str:
    """The text as a log can keep it: in UTF-8 (half a surrogate pair is not), and its middle left out if too long."""
    text = text.encode(errors="backslashreplace").decode()
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    return f"{text[: limit // 4]} [... {left_out} characters ...] {text[-limit * 3 // 4 :]}"


def run_unit(
    trainer: Trainer,
    unit: Unit,
    worker: int,
    parent: memoryview | None,
    prior: Sequence[dict[str, Any]],
    keep: Callable[[Trainer], int],
    catch: Errors = BaseException,
) -> UnitFinished | UnitFailed:
    """Run a unit; `keep` takes the state after a train unit and gives its size. The start is for the driver to add."""

    def work() -> UnitFinished:
        started = time.perf_counter()
        visit = trainer.visit(unit, parent)
        values = trainer.values(unit.model, [*prior, visit.partials])
        kept = keep(trainer) if unit.kind == "train" else 0
        seconds = time.perf_counter() - started
        moved = kept + (0 if parent is None else len(parent))
        return UnitFinished(unit, worker, 0.0, seconds, visit.rows, visit.partials, values, moved, peak_bytes())

    def told(line: str, trace: str, error: BaseException) -> UnitFailed:
        return UnitFailed(unit, worker, _status(error), line, trace)

    return guarded(work, told, catch)


def run_pilot(
    trainer: Trainer, model: str, worker: int, batches: int, catch: Errors = BaseException
) -> Piloted | PilotFailed:
    """Build a model, and time a few batches of it."""
    return guarded(
        lambda: Piloted(model, worker, trainer.pilot(model, batches) | {"peak_bytes": peak_bytes()}),
        lambda line, trace, error: PilotFailed(model, worker, line, trace, _status(error)),
        catch,
    )


def _status(error: BaseException) -> Literal["failed", "diverged"]:
    return "diverged" if isinstance(error, DivergedError) else "failed"


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
