"""A bar for work in a few steps, such as an ingest."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StageBar:
    """Shows steps one after another on standard error; nothing where that is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._step: tuple[str, int] | None = None

    def show(self, step: str, done: int, total: int | None) -> None:
        """Say how far a step is; a step of another name begins a new bar."""
        if self._step is None or self._step[0] != step:
            if self._step is not None:
                self._progress.remove_task(self._step[1])  # type: ignore[arg-type]  # rich's ids are integers
            self._step = (step, self._progress.add_task(step, total=total))
        self._progress.update(self._step[1], completed=done, total=total)  # type: ignore[arg-type]

    def __enter__(self) -> "StageBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
