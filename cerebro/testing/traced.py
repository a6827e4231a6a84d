"""What the child processes of `cerebro.testing.faults` do: run an experiment from a file, and trace it."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cerebro.errors import CerebroError
from cerebro.execution.executor import Step
from cerebro.messages import Event, Launch, Unit
from cerebro.plan.workload import Workload
from cerebro.session import experiment as session
from cerebro.session.declaration import Declaration
from cerebro.session.display import BudgetText, Configs, Silent
from cerebro.session.source import load_experiment
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.crash_points import VARIABLE as CRASH
from cerebro.storage.store import VARIABLE as STORE


@dataclass
class Trace(Silent):
    """Writes a line for each launch, each event, and each order that was carried out.

    A line is written whole, or not at all.
    """

    descriptor: int

    def write(self, what: str, unit: Unit | None = None, worker: int = -1, order: str = "-") -> None:
        """`what`, the unit or the order, worker and monotonic seconds, with tabs between."""
        name = f"{unit.model} {unit.kind} {unit.epoch} {unit.position}" if unit is not None else order
        os.write(self.descriptor, f"{what}\t{name}\t{worker}\t{time.monotonic()}\n".encode())

    def begin(
        self, declaration: Declaration, configs: Configs, workload: Workload, reader: CatalogReader, budget: BudgetText
    ) -> None:
        self.write("Begun")

    def launched(self, launch: Launch) -> None:
        for unit in launch.units:
            self.write("Launch", unit, launch.worker)

    def happened(self, event: Event) -> None:
        self.write(type(event).__name__, getattr(event, "unit", None), event.worker)

    def ruled(self, step: Step) -> None:
        if step.ruling.order is not None:
            self.write("Ruled", order=step.ruling.order)


def main(file: str, workers: int, descriptor: int) -> None:
    """Run the experiment in `file`; errors that Cerebro foresees are one message on the error stream.

    Every model is trained alone, as what a kill may cost is counted in units: of a pass it would be all of them.
    """
    trace = Trace(descriptor)
    session.make_display = lambda progress: trace
    trace.write("Started")
    session.load_ahead()
    try:
        load_experiment(Path(file)).fit(workers=workers, fuse=False)
    except CerebroError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)


def main_inline(file: str, store: str, crash_at: str) -> None:
    """Run the experiment in `file` in this process, which dies at the crash point if there is one."""
    os.environ |= {STORE: store} | ({CRASH: crash_at} if crash_at else {})
    load_experiment(Path(file)).fit(engine="inline", workers=2, progress=False)
