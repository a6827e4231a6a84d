"""How long until a command is acknowledged, and until it takes effect?

An experiment of eight models on two worker processes, in a driver of its own. Commands go to it through its socket, one
after another: notes, stops and resumes, each after the one before has taken effect. Measured are

- the acknowledgement: from the call of a method of the handle to its return, when the order is durable;
- the effect: from there until the order was carried out, in milliseconds and in units that each worker ended meanwhile
  (the goal is one, that which was running), and the units that a model began after its stop was acknowledged;
- the whole command line, beside a Python that imports Cerebro's command line and ends: what is left is the command.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chaos import declared, make_data
from harness import arguments, interleaved, print_figures, print_table, timed

import cerebro
from cerebro.control.orders import Reply
from cerebro.session.handle import Handle
from cerebro.storage.store import VARIABLE
from cerebro.testing.faults import Driver, Subject, running

GOAL_MS = 100


@dataclass(frozen=True)
class Given:
    """A command that was given, and when it was acknowledged and carried out, in monotonic seconds."""

    order: str
    model: str
    """The model that it stops, if it stops one."""
    called: float
    acknowledged: float
    ruled: float

    def units_until_effect(self, driver: Driver) -> int:
        """The units that one worker ended between the two, at most."""
        ended = Counter(
            line.worker
            for line in driver.lines
            if line.what == "UnitFinished" and self.acknowledged < line.seconds < self.ruled
        )
        return max(ended.values(), default=0)

    def units_begun(self, driver: Driver, resumed: float) -> int:
        """The units that a stopped model began after the acknowledgement, before it was resumed."""
        return sum(
            line.what == "Launch"
            and line.unit.startswith(f"{self.model} ")
            and self.acknowledged < line.seconds < resumed
            for line in driver.lines
        )


def commands(handle: Handle, count: int) -> Iterator[tuple[str, Callable[[], Reply]]]:
    """So many commands, and the model that each one stops."""
    for number in range(count):
        model = f"m00{1 + number // 4 % 8}"
        match number % 4:
            case 0 | 2:
                yield "", lambda number=number: handle.note(f"number {number}")
            case 1:
                yield model, lambda model=model: handle.stop(model)
            case _:
                yield "", lambda model=model: handle.resume(model)


def ruled(driver: Driver, order: str) -> float:
    """When an order was carried out; waits for it."""
    seen = 0
    while True:
        for line in driver.lines[seen:]:
            if line.what == "Ruled" and line.unit == order:
                return line.seconds
        seen = len(driver.lines)
        assert driver.read(seen + 1), "the run ended before it had carried out the order"


def give(driver: Driver, handle: Handle, count: int) -> list[Given]:
    found = list[Given]()
    for model, call in commands(handle, count):
        called = time.monotonic()
        reply = call()
        acknowledged = time.monotonic()
        assert reply.order is not None
        assert not reply.queued, reply
        found.append(Given(reply.order, model, called, acknowledged, ruled(driver, reply.order)))
    return found


def command_line(store: Path) -> dict[str, list[float]]:
    environment = {**os.environ, VARIABLE: str(store)}
    tool = str(Path(sys.executable).with_name("cerebro"))

    def run(*words: str) -> None:
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)

    contenders = {
        "cerebro note": lambda: timed(lambda: run(tool, "note", "chaos", "typed")),
        "python": lambda: timed(lambda: run(sys.executable, "-c", "import cerebro.cli")),
    }
    return interleaved(contenders, 5)


def ms(seconds: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.median) -> float:
    return of(seconds) * 1e3


def main() -> None:
    options = arguments(__doc__ or "", count=(int, 50, "commands"))
    count = 12 if options.quick else options.count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = declared(folder, "commands_eight", make_data(folder, 24_000), models=8, epochs=400)
        subject = Subject(file, "chaos", folder / "store")
        with running(subject) as driver:
            while not any(line.what == "UnitFinished" for line in driver.lines):
                assert driver.read(len(driver.lines) + 1)
            handle = cerebro.connect("chaos", subject.store)
            found = give(driver, handle, count)
            typed = command_line(subject.store)
            with closing(handle.folder.reader()) as reader:
                unit_ms = 1e3 * statistics.median(row["seconds"] for row in reader.query("SELECT seconds FROM units"))
            driver.read(len(driver.lines) + 1)
    following = [each.acknowledged for each in found[2:]] + [found[-1].ruled] * 2
    begun = [each.units_begun(driver, after) for each, after in zip(found, following, strict=True) if each.model]
    acknowledged = [each.acknowledged - each.called for each in found]
    effect = [each.ruled - each.acknowledged for each in found]
    units = max(each.units_until_effect(driver) for each in found)
    rows = [
        ("commands", len(found), f"notes, stops and resumes; a unit takes {unit_ms:.0f} ms"),
        ("acknowledged after, median, ms", ms(acknowledged), f"goal: {GOAL_MS}"),
        ("acknowledged after, worst, ms", ms(acknowledged, max), ""),
        ("then carried out after, median, ms", ms(effect), ""),
        ("then carried out after, worst, ms", ms(effect, max), ""),
        ("units that a worker ended meanwhile, worst", units, "goal: 1, the running one"),
        ("units that a stopped model began afterwards, worst", max(begun), "goal: 0"),
        ("`cerebro note`, all of it, ms", ms(typed["cerebro note"]), ""),
        ("a Python with the command line, ms", ms(typed["python"]), "in turns with the line above"),
    ]
    print_table("Commands to a live run", ["what", "found", ""], rows)
    figures = {
        "commands": len(found),
        "unit_ms_median": unit_ms,
        "ack_ms_median": ms(acknowledged),
        "ack_ms_max": ms(acknowledged, max),
        "effect_ms_median": ms(effect),
        "effect_ms_max": ms(effect, max),
        "units_until_effect_max": units,
        "units_begun_after_stop_max": max(begun),
        "command_line_ms_median": ms(typed["cerebro note"]),
        "python_ms_median": ms(typed["python"]),
    }
    print_figures("commands", figures)


if __name__ == "__main__":
    main()
