"""The handle: steering an experiment from Python, whether it runs in this process, in another, or not at all."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from pathlib import Path
from typing import Any

from cerebro.commands import Add, Clone, Command, Extend, Finish, Note, OptimizerState, Resume, Stop
from cerebro.control.client import answers, drill_down, send
from cerebro.control.knobs import check_known, nested
from cerebro.control.orders import Reply, new_order
from cerebro.control.steering import changed
from cerebro.control.validation import Facts, ShapeCheck, facts_in
from cerebro.errors import SpecError, StoreError
from cerebro.session.result import Leaderboard, Result
from cerebro.session.why import Why, why
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.dataset import open_dataset
from cerebro.storage.store import ExperimentFolder, Store

_POLL_SECONDS = 0.2


class Handle:
    """An experiment to be watched and steered.

    What is asked for takes effect at the end of a unit, or with the next run if none is alive; either way it is
    durable when a method returns. With `dry_run=True` it is only said what would be done, and what it would cost.

    Methods that ask for something raise `SpecError` where it is not possible in this experiment, and `StoreError`
    where there is no such model, or it is not in a state for it.
    """

    def __init__(
        self, folder: ExperimentFolder, spec: ExperimentSpec | None = None, run: "Future[Result] | None" = None
    ) -> None:
        """A handle on the experiment in `folder`; `run` is what trains it in this process, if anything does."""
        self.folder, self._spec, self._run = folder, spec, run

    def __repr__(self) -> str:
        return f"Handle({str(self.folder.path)!r})"

    def stop(self, model: str, note: str = "", *, dry_run: bool = False) -> Reply:
        """Train `model` no further; it can be resumed."""
        return self._send(Stop(model), note, dry_run)

    def resume(self, model: str, until: int | None = None, note: str = "", *, dry_run: bool = False) -> Reply:
        """Go on with a model that was stopped or is paused, to the end of epoch `until` or of the experiment's last."""
        return self._send(Resume(model, until), note, dry_run)

    def clone(
        self,
        model: str,
        changes: Mapping[str, Any] | None = None,
        *,
        warm: bool = True,
        optimizer: OptimizerState = "keep",
        note: str = "",
        dry_run: bool = False,
        **more: Any,
    ) -> Reply:
        """Train a new model with the config of `model` but for some changes: `clone("m003", lr=1e-4)`.

        Changes that are no Python names, or names of arguments here, go into `changes`: `{"optimizer.lr": 1e-4}`. A
        warm clone starts from the newest state of `model`, with or without what its optimizer remembers.
        """
        return self._send(Clone(model, {**(changes or {}), **more}, warm, optimizer), note, dry_run)

    def extend(self, model: str, epochs: int, note: str = "", *, dry_run: bool = False) -> Reply:
        """Train `model` for so many epochs more than it was to be, also when it has finished."""
        return self._send(Extend(model, epochs), note, dry_run)

    def add(self, config: Mapping[str, Any], note: str = "", *, dry_run: bool = False) -> Reply:
        """Train a new model of this config."""
        return self._send(Add(config), note, dry_run)

    def config(self, values: Mapping[str, Any], like: str | None = None) -> dict[str, Any]:
        """The config of the model `like` with other values; without `like` these alone. Names may be dotted paths.

        Raises:
            SpecError: `like` has no such hyper-parameter.
            StoreError: there is no model `like`.
        """
        if like is None:
            return nested(values)
        base = self._facts().model(like).config
        check_known("add", base, values)
        return changed(base, values)

    def add_from_space(
        self,
        space: Mapping[str, Any],
        n: int,
        like: str | None = None,
        seed: int = 0,
        note: str = "",
        *,
        dry_run: bool = False,
    ) -> list[Reply]:
        """Train `n` new models drawn from `space`; what is not in it is as in the model `like`, by default the best."""
        facts = self._facts()
        base = facts.model(like or self._best(facts)).config
        taken = [model.config for model in facts.models.values()]
        return [self.add(config, note, dry_run=dry_run) for config in drill_down(space, base, n, seed, taken)]

    def finish(self, note: str = "", *, dry_run: bool = False) -> Reply:
        """Begin nothing more: what runs ends its unit, everything else stays where it is."""
        return self._send(Finish(), note, dry_run)

    def note(self, text: str, model: str | None = None, *, dry_run: bool = False) -> Reply:
        """Write something into the log, of one model or of the whole experiment."""
        return self._send(Note(text, model), "", dry_run)

    def why(self, model: str) -> Why:
        """Everything that was decided about `model`, and by whom; prints as lines.

        Raises:
            StoreError: there is no such model.
        """
        return why(self.folder, model)

    @property
    def status(self) -> str:
        """`new`, `running`, `interrupted` or `finished`."""
        with closing(self.folder.reader()) as reader:
            noted = reader.experiment()["status"]
        return "interrupted" if noted == "running" and not self._is_run() else noted  # a run that was killed

    def leaderboard(self, each: bool = False) -> Leaderboard:
        """The models so far, best first; the repeats of a config as one row, or `each` of them."""
        return self._result().leaderboard(each)

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """What has happened, oldest first; only what has a higher number than `after`."""
        with closing(self.folder.reader()) as reader:
            return reader.events(after)

    def watch(self, timeout: float | None = None, after: int | None = None) -> Iterator[dict[str, Any]]:
        """New events, each as it comes, until no run is alive or `timeout` seconds are over.

        New are those from now on, or those with a higher number than `after`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if after is None:
            with closing(self.folder.reader()) as reader:
                after = _newest(reader)
        return self._watched(after, deadline)

    def _watched(self, after: int, deadline: float | None) -> Iterator[dict[str, Any]]:
        with closing(self.folder.reader()) as reader:
            while True:
                is_last = not self._is_run() or (deadline is not None and time.monotonic() >= deadline)
                # The number alone is cheap to ask for; all events are compared with their seal when they are read.
                for event in reader.events(after) if _newest(reader) > after else []:
                    after = event["seq"]
                    yield event
                if is_last:
                    return
                self._pause(deadline)

    def wait(self, timeout: float | None = None) -> Result:
        """The result, when no run of the experiment is alive any more.

        Raises:
            TimeoutError: a run is still alive after `timeout` seconds.
            CerebroError: what ended the run that was started with this handle.
            KeyboardInterrupt: that run was interrupted.
        """
        if self._run is not None:
            return self._run.result(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._is_run():
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.folder.path.name} is still run by process {self.folder.driver()}")
            self._pause(deadline)
        return self._result()

    def _send(self, command: Command, note: str, dry_run: bool) -> Reply:
        needs_shapes = isinstance(command, Clone) and command.warm
        return send(self.folder, new_order(command, note=note), dry_run, lambda: self._facts(needs_shapes))

    def _facts(self, with_shapes: bool = False) -> Facts:
        """The facts; shapes are not checked in a process that may be training."""
        with_shapes = with_shapes and self.folder.driver() != str(os.getpid())
        return facts_in(self.folder, shape_check(self.folder, self._spec) if with_shapes else None)

    def _result(self) -> Result:
        return Result(self.folder, self._spec)

    def _best(self, facts: Facts) -> str:
        """The model that leads; the first, before any has a value."""
        ranked = [row["model"] for row in self.leaderboard() if row["status"] not in ("failed", "diverged")]
        return next(iter(ranked or facts.models), "m001")

    def _is_run(self) -> bool:
        if self._run is not None:
            return not self._run.done()
        return self.folder.driver() is not None

    def _pause(self, deadline: float | None) -> None:
        left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, max(0.0, deadline - time.monotonic()))
        if self._run is not None:
            wait_for([self._run], left)
        else:
            threading.Event().wait(left)


def _newest(reader: CatalogReader) -> int:
    """The number of the newest event; 0 where there is none."""
    return reader.query("SELECT max(seq) AS seq FROM events")[0]["seq"] or 0


def connect(name: str, store: str | os.PathLike[str] | None = None) -> Handle:
    """A handle on the experiment `name`, whoever runs it, also when nobody does.

    Raises:
        SpecError: not a name.
        StoreError: there is no such experiment in the store.
    """
    folder = Store(store).experiment(name)
    folder.reader().close()
    return Handle(folder)


def start(run: Callable[[], Result], folder: ExperimentFolder, spec: ExperimentSpec | None) -> Handle:
    """Begin `run` in a thread; gives the handle as soon as orders are taken, or the run has ended.

    The process waits for the thread before it ends, as it would for the run itself.

    Raises:
        CerebroError: what ended the run before it took orders.
        KeyboardInterrupt: it was interrupted before.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"cerebro-{folder.path.name}")
    handle = Handle(folder, spec, running := pool.submit(run))
    pool.shutdown(wait=False)
    mine = (str(os.getpid()), "unknown")  # another process may hold the experiment: that ends this run
    while not (folder.exists and folder.driver() in mine and answers(folder)):
        if wait_for([running], _POLL_SECONDS / 4).done:
            running.result()
            break
    return handle


def shape_check(folder: ExperimentFolder, spec: ExperimentSpec | None) -> ShapeCheck | None:
    """How to find out whether a clone can start from a state; None where the code that builds modules is not at hand.

    It builds two modules, and draws from torch's generators meanwhile: never while this process trains.

    Raises:
        StoreError: there is no experiment, or its catalog is damaged.
    """
    with closing(folder.reader()) as reader:
        row = reader.experiment()
    declared = spec if spec is not None else _declared(folder, row["source"])
    if declared is None:
        return None

    def check_shapes(before: Mapping[str, Any], after: Mapping[str, Any], optimizer: OptimizerState) -> None:
        from cerebro.training.shapes import check_clone

        check_clone(declared.build, before, after, open_dataset(row["data"]).label, optimizer)

    return check_shapes


def _declared(folder: ExperimentFolder, source: str | None) -> ExperimentSpec | None:
    """The experiment as its file declares it; None if the file is gone, or declares it otherwise than by loading.

    The folder is held meanwhile: a script that calls `fit()` when it is loaded is refused there, and trains nothing.
    """
    from cerebro.session.source import load_experiment

    if source is None or not Path(source).is_file():
        return None
    try:
        with folder.held():
            return load_experiment(Path(source))
    except (SpecError, StoreError):
        return None
