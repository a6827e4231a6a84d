"""Who shows a run to a person: the live display, or nobody."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cerebro.execution.executor import Step, Watch
from cerebro.messages import Event, Launch
from cerebro.plan.workload import Assign, Workload
from cerebro.report.leaderboard import leaderboard
from cerebro.report.live import LiveDisplay
from cerebro.session.declaration import Declaration
from cerebro.storage.catalog import CatalogReader

Configs = Mapping[str, Mapping[str, Any]]
"""The config of each model, by id."""
BudgetText = Callable[[], str]
"""Says how much of the budget is spent by now; nothing where there is none."""


class Display(Watch, Protocol):
    """Shows a run from its beginning to its end."""

    def begin(
        self, declaration: Declaration, configs: Configs, workload: Workload, reader: CatalogReader, budget: BudgetText
    ) -> None: ...

    def end(self, status: str) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(
        self, declaration: Declaration, configs: Configs, workload: Workload, reader: CatalogReader, budget: BudgetText
    ) -> None: ...

    def launched(self, launch: Launch) -> None: ...

    def happened(self, event: Event) -> None: ...

    def ruled(self, step: Step) -> None: ...

    def tick(self) -> None: ...

    def end(self, status: str) -> None: ...


class Shown(Silent):
    """Shows the live display, with what is known of a resumed run from before."""

    def ruled(self, step: Step) -> None:
        chain = step.change.chain if isinstance(step.change, Assign) else None
        self._live.ruled(step.ruling, chain)

    def __init__(self) -> None:
        self._live = LiveDisplay()
        self.launched, self.happened = self._live.launched, self._live.happened
        self.tick, self.end = self._live.tick, self._live.end

    def begin(
        self, declaration: Declaration, configs: Configs, workload: Workload, reader: CatalogReader, budget: BudgetText
    ) -> None:
        rows = leaderboard(reader)
        self._live.begin(
            declaration.spec.name,
            declaration.spec.metric,
            declaration.spec.mode,
            configs,
            workload,
            {row["model"]: row["metrics"] for row in rows},
            {row["model"]: row["status"] for row in rows},
            budget,
        )


def make_display(progress: bool) -> Display:
    """The display for `fit(progress=...)`."""
    return Shown() if progress else Silent()
