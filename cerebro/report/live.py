"""The progress of `fit()` and `cerebro run` while they run: a live table on a terminal, plain lines elsewhere.

Everything goes to stderr, so that stdout stays for machines.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cerebro.messages import Event, Launch, Ruling
from cerebro.plan.workload import Chain, Workload
from cerebro.quantities import count_text, seconds_text
from cerebro.report.leaderboard import column_title
from cerebro.report.render import ROWS, best_text, budget_text, render, totals_text
from cerebro.report.snapshot import ModelProgress, Snapshot, WorkerProgress
from cerebro.report.tracking import Goal, Tracking, Values, nominal_seconds
from cerebro.report.wording import clean, config_text, number_text
from cerebro.spec.experiment import objective

__all__ = ["LiveDisplay", "ModelProgress", "Snapshot", "WorkerProgress", "render"]

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
_LINES_AROUND = 7
"""Lines of the display that are not models."""


class LiveDisplay:
    """Shows an experiment while it runs; `begin` first, `end` last, also after an error.

    `clock` gives seconds and is asked for nothing but differences.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._progress: Tracking | None = None
        self._live: Live | None = None
        self._shown_at = 0.0
        self._changed = False

    @property
    def draws(self) -> bool:
        """Whether this is a terminal that can be redrawn; otherwise there are plain lines."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def begin(
        self,
        name: str,
        metric: str,
        mode: str,
        configs: Mapping[str, Mapping[str, Any]],
        workload: Workload,
        done_values: Mapping[str, Values] | None = None,
        statuses: Mapping[str, str] | None = None,
        budget: Callable[[], str] = str,
    ) -> None:
        """Start to show.

        `done_values` gives the metrics known from before by model, as in the rows of the leaderboard; `statuses` the
        status of models that have ended: a model without a chain is taken to be finished otherwise.
        `budget` says how much of it is spent by now, such as `12 of 60 min, 20 %`.
        """
        now = self._clock()
        goal = Goal(name, metric, mode, configs, workload)
        self._progress = Tracking(goal, now, done_values, statuses)
        self._shown_at, self._budget = now, budget
        if not self.draws:
            self._line(_opening(self._snapshot(now), workload))
            return
        # Output of the program itself is kept out of the way of the table where both go to one terminal.
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty(), redirect_stderr=True
        )
        self._live.start()
        self._draw(now)

    def launched(self, launch: Launch) -> None:
        """A unit was handed to a worker."""
        if self._progress is not None:
            self._progress.launched(launch, self._clock())
            self._changed = True

    def happened(self, event: Event) -> None:
        """An engine told something."""
        if self._progress is not None:
            self._ended(self._progress.happened(event, self._clock()))

    def ruled(self, ruling: Ruling, chain: Chain | None) -> None:
        """Something was decided; `chain` is the work that its model has from now on, if that has changed."""
        if self._progress is not None:
            self._progress.ruled(ruling, chain)
            self._changed = True

    def tick(self) -> None:
        """Bring what is shown up to date, if it is old enough; cheap otherwise."""
        if self._progress is None:
            return
        now = self._clock()
        if self._live is not None:
            if now - self._shown_at >= REDRAW_SECONDS:
                self._draw(now)
        elif self._changed and now - self._shown_at >= LINE_SECONDS:
            self._shown_at, self._changed = now, False
            snapshot = self._snapshot(now)
            parts = totals_text(snapshot), budget_text(snapshot), best_text(snapshot)
            self._line(" · ".join(part for part in parts if part))

    def end(self, status: str) -> None:
        """Show the last state and give the terminal back."""
        if self._progress is None:
            return
        now = self._clock()
        if self._live is not None:
            self._draw(now, status)
            self._live.stop()
        else:
            self._line(_closing(self._snapshot(now, status)))
        self._progress = self._live = None

    def _ended(self, model: str | None) -> None:
        self._changed = True
        if model is not None and self._live is None:
            assert self._progress is not None
            self._line(_model_line(self._progress, model))

    def _draw(self, now: float, status: str = "running") -> None:
        assert self._live is not None
        self._shown_at, self._changed = now, False
        rows = max(3, min(ROWS, self._console.height - _LINES_AROUND))
        self._live.update(render(self._snapshot(now, status), rows), refresh=True)

    def _snapshot(self, now: float, status: str = "running") -> Snapshot:
        assert self._progress is not None
        return replace(self._progress.snapshot(now, status), budget=self._budget())

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True, highlight=False)


def _opening(snapshot: Snapshot, workload: Workload) -> str:
    models, epochs = count_text(len(snapshot.models), "model"), count_text(snapshot.epochs, "epoch")
    text = f"{snapshot.name}: {models} × {epochs} on {count_text(workload.workers, 'worker')}"
    text += f", {count_text(snapshot.units_total, 'unit')}"
    if snapshot.units_done:
        text += f" ({snapshot.units_done:,} done before)"
    seconds = nominal_seconds(workload) if not snapshot.units_done else snapshot.eta_seconds
    return text if seconds is None else f"{text}, about {seconds_text(seconds)}"


def _closing(snapshot: Snapshot) -> str:
    text = f"{snapshot.name}: {snapshot.status} after {seconds_text(max(0.0, snapshot.elapsed_seconds))}"
    text += f", {count_text(snapshot.units_done, 'unit')}"
    return ", ".join(part for part in (text, best_text(snapshot), budget_text(snapshot)) if part)


def _model_line(progress: Tracking, model: str) -> str:
    state = progress.model(model)
    parts = [model, state.status]
    if state.error:
        parts.append(clean(state.error))
    elif state.value is not None:
        parts.append(f"{column_title(objective(progress.goal.metric))} {number_text(state.value)}")
    if state.config:
        parts.append(f"({config_text(state.config)})")
    return " ".join(parts)
