"""The border between the user's code and the engines: what raises behind it becomes an event here.

This is the only place that catches everything.
"""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from cerebro.engines.deaths import is_out_of_memory
from cerebro.execution.engine import Prior
from cerebro.messages import Launch, Pilot, Piloted, PilotFailed, Unit, UnitFailed, UnitFinished
from cerebro.plan.kernels import STACKED, stacked_with
from cerebro.training.train import DivergedError, Visit
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


Keep = Callable[[Trainer, str], int]
"""Takes the state of a model after a train unit, and gives its size."""


def run_launch(
    trainer: Trainer,
    launch: Launch,
    parents: Sequence[memoryview | None],
    priors: Sequence[Prior],
    keep: Keep,
    catch: Errors = BaseException,
) -> list[UnitFinished | UnitFailed]:
    """Run the units of a launch, in one pass where that can be; `keep` takes the states. Gives how each ended.

    Units that are alike are one visit, whose result all of them have. The launch begins at 0 seconds: when that was is
    for the driver to add. Where the code of one model fails in a common pass each is run alone: units are pure, so
    that nothing has happened.
    """
    read_bytes = trainer.take_up(launch)
    try:
        events = _run_units(trainer, launch, parents, priors, keep, catch)
    finally:
        trainer.put_down(launch)
    first = next((place for place, event in enumerate(events) if isinstance(event, UnitFinished)), None)
    return [
        replace(event, read_bytes=read_bytes) if place == first and isinstance(event, UnitFinished) else event
        for place, event in enumerate(events)
    ]


def _run_units(
    trainer: Trainer,
    launch: Launch,
    parents: Sequence[memoryview | None],
    priors: Sequence[Prior],
    keep: Keep,
    catch: Errors,
) -> list[UnitFinished | UnitFailed]:
    units, begun = launch.units, time.perf_counter()
    groups = trainer.alike(units, parents) if launch.share else [[place] for place in range(len(units))]
    firsts = [group[0] for group in groups]
    visits = None
    if launch.fuse and len(firsts) > 1:
        together = partial(
            trainer.visit_together, [units[i] for i in firsts], [parents[i] for i in firsts], launch.kernel
        )
        visits = guarded(together, lambda line, trace, error: None, catch)

    def run(place: int, visit: Callable[[], Visit]) -> UnitFinished | UnitFailed:
        prior = priors[place] if place < len(priors) else ()
        return _run_unit(trainer, units[place], launch.worker, parents[place], prior, visit, keep, catch)

    ended = dict[int, UnitFinished | UnitFailed]()
    for number, group in enumerate(groups):
        alone = [partial(trainer.visit, units[place], parents[place], launch.kernel) for place in group]
        first = alone[0] if visits is None else partial(_visited, visits[number])
        ended |= _run_alike(trainer, units, group, [first, *alone[1:]], run)
    kernel = _kernel(launch, visits is not None)
    events = _noted([ended[place] for place in range(len(units))], kernel)
    if visits is None and len(groups) == len(units):
        return _one_after_another(events)
    share = (time.perf_counter() - begun) / len(units)
    return _one_after_another([replace(e, seconds=share) if isinstance(e, UnitFinished) else e for e in events])


def _run_alike(
    trainer: Trainer,
    units: Sequence[Unit],
    group: Sequence[int],
    visits: Sequence[Callable[[], Visit]],
    run: Callable[[int, Callable[[], Visit]], UnitFinished | UnitFailed],
) -> dict[int, UnitFinished | UnitFailed]:
    """How units that are one computation ended: the first is made, and the others too only where that one fails."""
    made = list[Visit]()

    def first() -> Visit:
        made.append(visits[0]())
        return made[0]

    ended = {group[0]: run(group[0], first)}
    for place, alone in zip(group[1:], visits[1:], strict=True):
        if made:
            trainer.share(units[group[0]].model, units[place].model)
        ended[place] = run(place, (lambda: made[0]) if made else alone)
    return ended


def _noted(events: Sequence[UnitFinished | UnitFailed], kernel: str) -> list[UnitFinished | UnitFailed]:
    """The events with how they were computed and what they needed, all but the last saying that there are more."""
    peak = peak_bytes()  # half a millisecond: once for all
    return [
        replace(event, kernel=kernel, peak_bytes=peak, more=event is not events[-1])
        if isinstance(event, UnitFinished)
        else event
        for event in events
    ]


def _kernel(launch: Launch, is_pass: bool) -> str:
    """How the units of a launch were computed, as the log keeps it."""
    if launch.kernel == STACKED:
        return stacked_with([unit.model for unit in launch.units]) if is_pass else ""
    return launch.kernel


def _visited(visit: Visit | DivergedError) -> Visit:
    if isinstance(visit, DivergedError):
        raise visit
    return visit


def _one_after_another(events: list[UnitFinished | UnitFailed]) -> list[UnitFinished | UnitFailed]:
    """The events with their starts, as if each unit had begun where the one before it ended."""
    placed, start = list[UnitFinished | UnitFailed](), 0.0
    for event in events:
        if isinstance(event, UnitFinished):
            placed.append(replace(event, started=start))
            start += event.seconds
        else:
            placed.append(event)
    return placed


def _run_unit(
    trainer: Trainer,
    unit: Unit,
    worker: int,
    parent: memoryview | None,
    prior: Prior,
    visit: Callable[[], Visit],
    keep: Keep,
    catch: Errors,
) -> UnitFinished | UnitFailed:
    def work() -> UnitFinished:
        started = time.perf_counter()
        found = visit()
        values = trainer.values(unit.model, [*prior, found.partials])
        kept = keep(trainer, unit.model) if unit.kind == "train" else 0
        seconds = time.perf_counter() - started
        moved = kept + (0 if parent is None else len(parent))
        return UnitFinished(unit, worker, 0.0, seconds, found.rows, found.partials, values, moved)

    def told(line: str, trace: str, error: BaseException) -> UnitFailed:
        return UnitFailed(unit, worker, _status(error), line, trace)

    return guarded(work, told, catch)


def run_pilot(trainer: Trainer, pilot: Pilot, catch: Errors = BaseException) -> Piloted | PilotFailed:
    """Build a model, and time a few batches of it."""
    return guarded(
        lambda: Piloted(pilot.model, pilot.worker, trainer.pilot(pilot) | {"peak_bytes": peak_bytes()}),
        lambda line, trace, error: PilotFailed(pilot.model, pilot.worker, line, trace, _status(error)),
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
