"""The experiment as users hold it: a declaration that can be explained, fitted and looked at."""

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from cerebro.errors import SpecError, StoreError
from cerebro.execution.engine import Engine
from cerebro.execution.forecast import Forecast, forecast
from cerebro.execution.policies import DEFAULT_POLICY, POLICIES
from cerebro.execution.profiler import Profiler
from cerebro.optimizer.given import Means
from cerebro.plan.cost import Profile
from cerebro.plan.explain import physical_text, story_text
from cerebro.plan.features import Features
from cerebro.plan.node import tree
from cerebro.session.cycles import Models, continues, name_now
from cerebro.session.declaration import Declaration, check_same, declare
from cerebro.session.display import make_display
from cerebro.session.expectation import expected_work
from cerebro.session.handle import Handle, start
from cerebro.session.pilot import pilot, remembered_pilot
from cerebro.session.planning import actual_text, fits_text, plan
from cerebro.session.result import Result
from cerebro.session.room import as_features, shard_limit
from cerebro.session.run import INTERRUPTED, Run
from cerebro.spec.budget import Budget, as_budget
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.append import append
from cerebro.storage.dataset import Dataset, open_dataset
from cerebro.storage.store import Store

EngineName = Literal["local", "inline"]
Stage = Literal["logical", "physical", "actual"]
StorePath = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Experiment(ExperimentSpec):
    """What to compare, and the verbs that do it.

    See `cerebro.spec.experiment.ExperimentSpec` for the fields. The declaration is checked when it is made; nothing
    runs before `explain` or `fit`.

    Where things run never changes a bit of any model: `workers`, `engine` and `policy` are arguments of the verbs, and
    so is `features`: whether what frozen sub-modules and views give is written to the store (`materialize`), kept in
    memory (`share`), computed on every visit (`recompute`), or what costs least (`auto`); and `fuse`: whether models of
    one architecture may be trained in one pass where a pilot finds that it pays; and `fork`: whether models that have
    the same `stages` in their first epochs may be trained once there; and `tapes`: whether the kernels of a batch may
    be noted, and played for the next ones without the Python between them; and `shard_memory`: how much of the shards
    may be held in memory over all workers (`"2GB"`, or bytes; half of what is free by default): where they do not all
    fit, models meet at the shards that are held, so that each is read for all of them. `workers` defaults to the cores
    of this machine (or its GPUs); `store` to the environment's CEREBRO_STORE, else `./cerebro.d`.
    """

    def fit(
        self,
        *,
        workers: int | None = None,
        engine: EngineName = "local",
        device: str = "auto",
        policy: str = DEFAULT_POLICY,
        features: Features | str = "auto",
        fuse: bool = True,
        fork: bool = True,
        tapes: bool = True,
        shard_memory: int | str | None = None,
        models: Models | None = None,
        store: StorePath = None,
        budget: Budget | str | None = None,
        progress: bool = True,
    ) -> Result:
        """Train every model and return the result; again, it resumes what was interrupted or returns at once.

        `budget` takes the place of the declared one, for all runs of the experiment together; when it is spent, `fit`
        returns with what there is, and goes on from there when there is more.

        Where the data have grown since the last `fit` (see `append`), this is a new cycle, with a leaderboard of its
        own: `models` says whether they begin anew on all data (`restart`, the default), or go on from the weights and
        the optimizer's memory that they had (`continue`), for `epochs` epochs more.

        Raises:
            CerebroError: the experiment cannot be run, with the reason; nothing is left half-done.
            KeyboardInterrupt: Ctrl-C was pressed; what ran has ended and is kept, and `fit` goes on from there.
        """
        where = Store(store)
        now = self._in_cycle(where)
        folder = where.experiment(now.name)
        if engine == "local" and not folder.is_finished:
            load_ahead()
        spend = as_budget(budget) or self.budget
        continued = continues(folder, self.name, open_dataset(self.data), where, models)
        declaration, means, chosen = now._prepare(workers, engine, device, policy, shard_memory, continued)
        means = replace(means, features=as_features(features, where.features), fuse=fuse, fork=fork, tapes=tapes)
        run = Run(declaration, where, folder, means, chosen, lambda: make_engine(engine), make_display(progress), spend)
        ending = run.execute()
        if ending == INTERRUPTED:
            raise KeyboardInterrupt(f"experiment {now.name!r} was interrupted; fit() goes on from here")
        if ending.reason and progress:
            sys.stderr.write(f"{self.name}: {ending.reason}; give more with budget=, and it goes on\n")
        return Result(folder, now)

    def append(self, new_data: Any) -> Dataset:
        """Let new rows join the dataset; the next `fit` is a new cycle, and what was trained before stays readable.

        new_data: whatever `cerebro.ingest` takes, with all columns of the dataset. New shards join those that are
        there, which stay as they are; so what was derived of them is not computed again. A group stays in its split.

        Raises:
            DataError: the rows do not fit, are there already, or another process is appending; nothing has changed.
        """
        return append(new_data, self.data)

    def start(self, **options: Any) -> Handle:
        """Train in the background, with the options of `fit`; gives a handle to watch and steer it by.

        Raises:
            CerebroError: as `fit`, where it is known before anything is trained.
        """
        if options.get("engine", "local") == "local":
            load_ahead()  # in this thread: the workers' parent dies with the thread that started it
        store = Store(options.get("store"))
        folder = store.experiment(self._in_cycle(store).name)
        return start(lambda: self.fit(**options), folder, self)

    def explain(
        self,
        stage: Stage = "physical",
        *,
        workers: int | None = None,
        engine: EngineName = "local",
        device: str = "auto",
        policy: str = DEFAULT_POLICY,
        features: Features | str = "auto",
        fuse: bool = True,
        fork: bool = True,
        tapes: bool = True,
        shard_memory: int | str | None = None,
        models: Models | None = None,
        store: StorePath = None,
        budget: Budget | str | None = None,
        why: bool = False,
    ) -> str:
        """The plan as a tree: `logical` (what), `physical` (how, with estimates), `actual` (estimates beside measures).

        Nothing is trained. For the estimates a few batches of each architecture are run once, and remembered. `why`
        shows the logical plan too, what it was rewritten to, and what the optimizer has weighed: a line for each
        alternative, with its price or why it is not possible.

        Raises:
            CerebroError: the experiment cannot be planned, with the reason.
        """
        if stage not in ("logical", "physical", "actual"):
            raise SpecError(f"stage: {stage!r} is not one of logical, physical, actual")
        where = Store(store)
        now = self._in_cycle(where)
        folder = where.experiment(now.name)
        continued = continues(folder, self.name, open_dataset(self.data), where, models)
        declaration, means, chosen = now._prepare(workers, engine, device, policy, shard_memory, continued)
        means = replace(means, features=as_features(features, where.features), fuse=fuse, fork=fork, tapes=tapes)
        if stage == "logical":
            return tree(declaration.select)
        profiles = now._profiles(declaration, means, chosen, where)
        physical, policy_used = plan(declaration, expected_work(declaration, profiles), means)
        if stage == "physical":
            spend = as_budget(budget) or self.budget
            text = physical_text(physical) + (f"\n{fits_text(spend, physical, policy_used)}" if spend else "")
            return story_text(physical, text, declaration.select) if why else text
        with closing(folder.reader()) as reader:
            check_same(declaration.identity, reader.experiment()["spec"], folder.path)
            if not reader.units():
                raise StoreError(f"experiment {now.name!r} has no finished unit yet: run it first")
            text = actual_text(physical, reader)
            return story_text(physical, text, declaration.select) if why else text

    def forecast(
        self, *, workers: int | None = None, device: str = "auto", policy: str = DEFAULT_POLICY, store: StorePath = None
    ) -> Forecast:
        """The schedule that a run would follow, on a virtual clock: nothing is trained.

        Raises:
            CerebroError: as `explain`.
        """
        declaration, means, chosen = self._prepare(workers, "local", device, policy)
        profiles = self._profiles(declaration, Means(_usable_cores(), policy, "local"), chosen, Store(store))
        physical, chosen_policy = plan(declaration, expected_work(declaration, profiles), means)
        return forecast(physical.hop.workload, chosen_policy)

    def result(self, store: StorePath = None, cycle: int | None = None) -> Result:
        """What there is of this experiment so far, in the present cycle of its data or in an earlier one (from 0).

        Raises:
            StoreError: it was never run, or not in that cycle.
        """
        where = Store(store)
        now = self._in_cycle(where, cycle)
        folder = where.experiment(now.name)
        folder.reader().close()
        return Result(folder, now)

    def _in_cycle(self, store: Store, cycle: int | None = None) -> "Experiment":
        """This experiment under the name that it has in a cycle of its data."""
        if cycle is None and not store.experiment(self.name).exists:
            return self  # data that are not there are found missing where all is checked
        name = name_now(self.name, open_dataset(self.data), store, cycle)
        return self if name == self.name else replace(self, name=name)

    def _prepare(
        self,
        workers: int | None,
        engine: str,
        device: str,
        policy: str,
        shard_memory: int | str | None = None,
        continued: Mapping[str, Any] | None = None,
    ) -> tuple[Declaration, Means, str]:
        from cerebro.training.devices import choose_device

        if engine not in ENGINES:
            raise SpecError(f"engine: {engine!r} is not one of {', '.join(ENGINES)}")
        if policy not in POLICIES:
            raise SpecError(f"policy: {policy!r} is not one of {', '.join(POLICIES)}")
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise SpecError(f"workers: {workers!r} is not a whole number of at least 1")
        chosen, limit = choose_device(device)
        declaration = declare(self, chosen, continued=continued)
        count = workers or min(limit or _usable_cores(), len(declaration.configs))
        if limit is not None and count > limit:
            raise SpecError(f"workers: {count} were asked for, and there is one worker for each of {limit} GPUs")
        scan = declaration.train.scan
        limit = shard_limit(shard_memory, (*scan.train_bytes, *scan.valid_bytes), count)
        return declaration, Means(count, policy, engine, shard_bytes=limit), chosen

    def _profiles(self, declaration: Declaration, means: Means, device: str, store: Store) -> dict[str, Profile]:
        """The profiles of an earlier pilot, or of one on workers of its own."""
        remembered = remembered_pilot(declaration, store)
        if remembered is not None:
            return dict(remembered.profiles)
        folder = store.experiment(self.name)
        run = Run(declaration, store, folder, means, device, lambda: make_engine(means.engine), make_display(False))
        with closing(run.make_engine()) as engine:
            engine.open(run.program(), means.workers, lambda model: None)
            profiler = Profiler(engine)
            profiler.wait_for_workers(means.workers)
            return dict(pilot(declaration, profiler, store).profiles)


def load_ahead() -> None:
    """Let torch be loaded for the workers while this process loads it for itself.

    The earlier the better: what loads a file that imports torch calls it before.
    """
    from cerebro.engines.forkserver import shared_fork_server

    shared_fork_server()


def _local() -> Engine:
    from cerebro.engines.local import LocalEngine

    return LocalEngine()


def _inline() -> Engine:
    from cerebro.engines.inline import InlineEngine

    return InlineEngine()


ENGINES = {"local": _local, "inline": _inline}


def make_engine(name: str) -> Engine:
    """A new engine; what it needs is imported only now."""
    return ENGINES[name]()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
