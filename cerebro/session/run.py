"""One run of an experiment: pilot, plan, execute, record."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from cerebro.control.console import Console
from cerebro.control.validation import facts_in
from cerebro.errors import StoreError
from cerebro.execution.energy import EnergyCounter
from cerebro.execution.engine import Engine
from cerebro.execution.executor import Executor, Step
from cerebro.execution.meter import Meter, spent_before
from cerebro.execution.profiler import PilotReport, Profiler
from cerebro.execution.recorder import Lineage, Newcomers, Origin, Recorder
from cerebro.execution.resume import Finish, Resumption
from cerebro.execution.scheduler import Scheduler
from cerebro.ids import canonical_json, digest
from cerebro.optimizer.given import Means, Work
from cerebro.plan.cost import Profile
from cerebro.plan.program import Member, Program
from cerebro.session.cycles import inherit
from cerebro.session.declaration import Declaration, check_same
from cerebro.session.display import Display
from cerebro.session.handle import shape_check
from cerebro.session.interrupts import interruptible, quick_turns
from cerebro.session.members import member_in, members_in, start_of
from cerebro.session.numerics import check_fingerprint, common_fingerprint
from cerebro.session.pilot import pilot, remembered_pilot
from cerebro.session.planning import plan, plan_record
from cerebro.session.recall import recall
from cerebro.session.recovery import ENDED, note_torn_log, resume, torn_catalog_log
from cerebro.session.steering import RunSteering, earlier_visits
from cerebro.spec.budget import Budget
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.catalog import Catalog
from cerebro.storage.inbox import Inbox
from cerebro.storage.spending import SPENT
from cerebro.storage.store import ExperimentFolder, Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    status: Literal["finished", "interrupted"]
    reason: str = ""
    """What was not done and why, where a budget ended it."""


FINISHED, INTERRUPTED = Ending("finished"), Ending("interrupted")


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run needs."""

    declaration: Declaration
    store: Store
    folder: ExperimentFolder
    means: Means
    device: str
    make_engine: Callable[[], Engine]
    display: Display
    budget: Budget | None = None
    starts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """What clones of this run start from, until it is durable."""

    def execute(self) -> Ending:
        """Train until every model has ended, it is interrupted, or its budget is spent.

        Raises:
            CerebroError: it cannot be run, with the reason; what was finished is kept.
        """
        if self.folder.is_read_only and self._is_over():
            return FINISHED
        with self.folder.held():
            if self.folder.exists and self._is_over():
                return FINISHED
            with closing(self.make_engine()) as engine:
                return self._with_engine(engine)

    def _is_over(self) -> bool:
        with closing(self.folder.reader()) as reader:
            check_same(self.declaration.identity, reader.experiment()["spec"], self.folder.path)
            reader.check()
            return reader.experiment()["status"] == "finished" and not Inbox(self.folder.path).pending()

    def _with_engine(self, engine: Engine) -> Ending:
        opened_at, remembered = time.time(), remembered_pilot(self.declaration, self.store)
        engine.open(self.program(remembered.trials if remembered else None), self.means.workers, self._restore)
        profiler = Profiler(engine)
        profiler.wait_for_workers(self.means.workers)
        fingerprint = common_fingerprint(list(profiler.workers.values()))
        report = remembered or pilot(self.declaration, profiler, self.store)
        if not self.folder.exists:
            members = {model: member.as_json() for model, member in self.declaration.members.items()}
            inherited = inherit(self.declaration.members, self.folder)
            self.folder.create(self._row(fingerprint), members, inherited)
        torn = torn_catalog_log(self.folder)
        with closing(Catalog(self.folder.path)) as catalog:
            note_torn_log(catalog, torn)
            check_fingerprint(catalog.experiment()["fingerprint"], fingerprint, self.folder)
            return self._with_catalog(catalog, _Ready(engine, opened_at, profiler, report, fingerprint))

    def _with_catalog(self, catalog: Catalog, ready: "_Ready") -> Ending:
        self._forget_carried_out(catalog)
        past = resume(catalog, self._finish(), self.folder.checkpoints)
        self.folder.checkpoints.collect({row["state_digest"] for row in catalog.rows("checkpoints")})
        self._note_pilot(catalog, ready.report)
        course = self._course(catalog, ready, past)
        steps, work = course.handle(()), course.work()
        meter = course.meter = self._meter(catalog)
        number, ending = self._note_start(catalog), INTERRUPTED
        recorder = self._recorder(catalog, ready, number, past, course)
        course.settle = recorder.finish_writing
        try:
            with closing(recorder), self._console():
                complete = self._executed(catalog, ready, course, recorder, (steps, work))
            reached = ending_of(complete, course, meter)  # only now is all of it durable
            _note_end(catalog, reached, number, meter)
            ending = reached
        except BaseException:
            with suppress(StoreError):  # what ended the run is to be told, not that this too could not be written
                _note_end(catalog, ending, number, meter)
            raise
        finally:
            self.display.end(ending.status)
        return ending

    def _forget_carried_out(self, catalog: Catalog) -> None:
        """Take from the inbox what a driver that died then had carried out, and noted, before."""
        inbox = Inbox(self.folder.path)
        inbox.remove({order for order, _ in inbox.pending() if catalog.has_command(order)})

    def _meter(self, catalog: Catalog) -> Meter:
        finish, workers = self._finish(), self.means.workers
        visits = finish.train_visits + finish.valid_visits
        earlier = spent_before(catalog, self.budget, visits)
        return Meter(self.budget, workers, visits, earlier, energy=EnergyCounter(workers, self.device))

    def _executed(
        self,
        catalog: Catalog,
        ready: "_Ready",
        course: RunSteering,
        recorder: Recorder,
        begun: tuple[Sequence[Step], Work],
    ) -> bool:
        """Carry out what is to be done from the beginning, and all that follows from it."""
        steps, work = begun
        if not work.configs:  # nothing is left to train, but something may have been said
            for step in steps:
                recorder.record(step.ruling, step.state)
            return True
        physical, policy = plan(self.declaration, work, self.means)
        ready.engine.prefer(physical.features)
        steps = course.in_groups(steps, physical.hop)
        with catalog.transaction():
            catalog.set_experiment(plan=canonical_json(plan_record(physical, work.profiles)))
            for model in work.configs:
                if (inexact := course.inexact(model)) is not None:
                    catalog.add_event("engine", "inexact", inexact)
        scheduler = Scheduler(physical.hop.workload, policy)
        executor = Executor(scheduler, ready.engine, recorder, self.display, steering=course)
        self.display.begin(self.declaration, course.configs, physical.hop.workload, catalog, course.meter.progress)
        with interruptible() as pressed, quick_turns():

            def interrupted() -> bool:
                return pressed() or course.meter.exhausted() is not None

            return executor.run(ready.profiler.workers.values(), course.earlier, interrupted, steps)

    def _course(self, catalog: Catalog, ready: "_Ready", past: Mapping[str, Resumption]) -> RunSteering:
        steering = self.declaration.steering(self.budget.models if self.budget else None)
        backlog = recall(steering, catalog)
        rows = {row["model"]: row for row in catalog.models()}
        return RunSteering(
            steering,
            self.declaration,
            self.folder,
            self._finish(),
            ready.report.profiles,
            configs={model: row["config"] for model, row in rows.items()},
            repeats={model: row["repeat"] for model, row in rows.items()},
            past={model: past[model].done if model in past else start_of(member_in(rows[model])) for model in rows},
            earlier=earlier_visits(catalog, past),
            starts=self.starts,
            backlog=backlog,
        )

    def _recorder(
        self, catalog: Catalog, ready: "_Ready", number: int, past: Mapping[str, Resumption], course: RunSteering
    ) -> Recorder:
        ancestors = {model: member.ancestor for model, member in members_in(catalog).items() if member.ancestor}
        digests = {model: ancestor.state_digest for model, ancestor in ancestors.items()}
        digests |= {model: part.state_digest for model, part in past.items() if part.state_digest}
        profiles = ready.report.profiles.values()
        return Recorder(
            catalog,
            self.folder.checkpoints,
            self._lineage(ready.fingerprint, members_in(catalog)),
            self._finish(),
            Origin(number, ready.opened_at),
            digests,
            behind_max=self.means.workers,
            newcomers=Newcomers(self.declaration.plan_id, worst_badge(profiles, self.declaration.spec), course.inexact),
            is_kept=course.is_kept,
            forget_orders=Inbox(self.folder.path).remove,
        )

    @contextmanager
    def _console(self) -> Iterator[None]:
        """Take orders from other processes."""
        # To build a module draws random numbers, which the units of an engine in this process draw as well.
        inline = self.means.engine == "inline"
        check_shapes = None if inline else shape_check(self.folder, self.declaration.spec)
        with Console(self.folder.path, lambda: facts_in(self.folder, check_shapes)):
            yield

    def _note_pilot(self, catalog: Catalog, report: PilotReport) -> None:
        """Keep what the pilot found of the models that are to be trained; what became of the others stands."""
        ended = {model["model"] for model in catalog.models() if model["status"] in ENDED}
        with catalog.transaction():
            for model, profile in _without(report.profiles, ended).items():
                badge = badge_of(profile, self.declaration.spec)
                catalog.set_model(model, architecture=profile.architecture, badge=badge)
                if profile.impure_tensor:
                    catalog.add_event("engine", "impure", {"model": model, "tensor": profile.impure_tensor})
            for model, failure in _without(report.failures, ended).items():
                status, error = failure.status, failure.error
                catalog.set_model(model, status=status, error=error, traceback=failure.traceback)
                catalog.add_event("engine", f"model {status}", {"model": model, "error": error})

    def _note_start(self, catalog: Catalog) -> int:
        means = {**asdict(self.means), "features": self.means.features.mode}
        with catalog.transaction():
            number = catalog.add_command("user", "run", means)
            budget = {"budget": self.budget.describe()} if self.budget else {}
            catalog.add_event("user", "run started", {"run": number, **means, "device": self.device, **budget})
            catalog.set_experiment(status="running")
        return number

    def program(self, trials: Mapping[str, Any] | None = None) -> Program:
        """What workers must know; `trials` are those of an earlier pilot."""
        return self.declaration.program(self._members(), self.means.tapes, trials)

    def _members(self) -> Mapping[str, Member]:
        if not self.folder.exists:
            return self.declaration.members
        with closing(self.folder.reader()) as reader:
            return members_in(reader)

    def _restore(self, model: str) -> bytes | None:
        """The durable state of a model; asked by the engine while this run holds the experiment."""
        if not self.folder.exists:
            return None  # a pilot, before the experiment has begun
        with closing(self.folder.reader()) as reader:
            checkpoint = reader.last_checkpoints().get(model)
        return self.folder.checkpoints.read(checkpoint["state_digest"]) if checkpoint else self.starts.get(model)

    def _finish(self) -> Finish:
        scan = self.declaration.train.scan
        return Finish(len(scan.train_rows), len(scan.valid_rows))

    def _lineage(self, fingerprint: Mapping[str, Any], members: Mapping[str, Member]) -> Lineage:
        declaration = self.declaration
        splits = declaration.dataset.splits
        return Lineage(
            plan_id=declaration.plan_id,
            fingerprint=digest(fingerprint),
            members={model: digest(member.as_json()) for model, member in members.items()},
            train_shards=tuple(shard.sha256 for shard in splits["train"]),
            valid_shards=tuple(shard.sha256 for shard in splits.get("valid", ())),
        )

    def _row(self, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.declaration.spec
        return {
            "name": spec.name,
            "spec": self.declaration.identity,
            "plan_id": self.declaration.plan_id,
            "metric": spec.metric,
            "mode": spec.mode,
            "epochs": spec.epochs,
            "fingerprint": fingerprint,
            "data": str(self.declaration.dataset.path.resolve()),
            "source": spec.source,
        }


@dataclass(frozen=True, slots=True)
class _Ready:
    """An open engine, its workers, and what the pilot found."""

    engine: Engine
    opened_at: float
    """Seconds since 1970."""
    profiler: Profiler
    report: PilotReport
    fingerprint: Mapping[str, Any]


def _without(found: Mapping[str, T], models: Collection[str]) -> dict[str, T]:
    return {model: value for model, value in found.items() if model not in models}


def ending_of(complete: bool, course: RunSteering, meter: Meter) -> Ending:
    """How a run ended, and what is left to do."""
    limit = meter.exhausted()
    if complete and not course.steering.is_curbed:
        return FINISHED
    if complete:
        return Ending("interrupted", "the budget is spent (models): the search would go on with more configs")
    if limit is None:
        return INTERRUPTED
    return Ending("interrupted", f"the budget is spent ({limit}); {course.left_text()}")


def _note_end(catalog: Catalog, ending: Ending, run: int, meter: Meter) -> None:
    reason = {"reason": ending.reason} if ending.reason else {}
    with catalog.transaction():
        catalog.set_experiment(status=ending.status)
        catalog.add_event("engine", SPENT, {"run": run, **meter.this_run().describe()})
        catalog.add_event("engine", f"run {ending.status}", {"run": run, **reason})


def badge_of(profile: Profile, spec: ExperimentSpec) -> str:
    """How far a model can be repeated: `exact`, `recorded` (from the log), or `best effort` (impure or inexact)."""
    if profile.impure_tensor or not spec.exact:
        return "best effort"
    return "recorded" if spec.order == "free" else "exact"


def worst_badge(profiles: Collection[Profile], spec: ExperimentSpec) -> str:
    """The badge of a model that was not piloted itself: the lowest of those that were."""
    badges = {badge_of(profile, spec) for profile in profiles}
    return next((badge for badge in ("best effort", "recorded") if badge in badges), "exact")
