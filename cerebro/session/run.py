"""One run of an experiment: pilot, plan, execute, record."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from cerebro.errors import EngineError, StoreError
from cerebro.execution.engine import Engine
from cerebro.execution.executor import Executor
from cerebro.execution.profiler import PilotReport, Profiler
from cerebro.execution.recorder import Lineage, Origin, Recorder
from cerebro.execution.resume import Finish, Resumption
from cerebro.execution.scheduler import Scheduler
from cerebro.ids import canonical_json, digest
from cerebro.messages import WorkerJoined
from cerebro.plan.cost import Profile
from cerebro.plan.physical import PhysicalPlan
from cerebro.plan.program import Program
from cerebro.session.declaration import Declaration, check_same
from cerebro.session.display import Display
from cerebro.session.pilot import pilot
from cerebro.session.planning import Means, plan, plan_record
from cerebro.session.recovery import ENDED, note_torn_log, resume, torn_catalog_log
from cerebro.storage.catalog import Catalog
from cerebro.storage.store import ExperimentFolder, Store

T = TypeVar("T")


_TURN_SECONDS = 0.0002


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

    def execute(self) -> bool:
        """Train until every model has ended; gives whether it came to that, or was interrupted.

        Raises:
            CerebroError: it cannot be run, with the reason; what was finished is kept.
        """
        if self.folder.is_read_only and self._is_over():
            return True
        with self.folder.held():
            if self.folder.exists and self._is_over():
                return True
            with closing(self.make_engine()) as engine:
                return self._with_engine(engine)

    def _is_over(self) -> bool:
        with closing(self.folder.reader()) as reader:
            check_same(self.declaration.identity, reader.experiment()["spec"], self.folder.path)
            reader.check()
            return all(model["status"] in ENDED for model in reader.models())

    def _with_engine(self, engine: Engine) -> bool:
        opened_at = time.time()
        engine.open(self.program(), self.means.workers, self._restore)
        profiler = Profiler(engine)
        profiler.wait_for_workers(self.means.workers)
        fingerprint = _common_fingerprint(list(profiler.workers.values()))
        report = pilot(self.declaration, profiler, self.store)
        if not self.folder.exists:
            self.folder.create(self._row(fingerprint), self.declaration.configs)
        torn = torn_catalog_log(self.folder)
        with closing(Catalog(self.folder.path)) as catalog:
            note_torn_log(catalog, torn)
            _check_fingerprint(catalog.experiment()["fingerprint"], fingerprint, self.folder)
            return self._with_catalog(catalog, _Ready(engine, opened_at, profiler, report, fingerprint))

    def _with_catalog(self, catalog: Catalog, ready: "_Ready") -> bool:
        past = resume(catalog, self._finish(), self.folder.checkpoints)
        self.folder.checkpoints.collect({row["state_digest"] for row in catalog.rows("checkpoints")})
        ended = {model["model"] for model in catalog.models() if model["status"] in ENDED}
        profiles = {model: profile for model, profile in ready.report.profiles.items() if model not in ended}
        self._note_pilot(catalog, ready.report, ended)
        if not profiles:  # what was left failed in its pilot
            return True
        done = {model: part.done for model, part in past.items() if model in profiles}
        physical, policy = plan(self.declaration, profiles, self.means, done)
        number = self._note_start(catalog, physical, ready.report.profiles)
        recorder = self._recorder(catalog, ready, number, past)
        executor = Executor(Scheduler(physical.hop.workload, policy), ready.engine, recorder, self.display)
        earlier = [(row.unit, row.partials) for part in past.values() for row in part.kept]
        self.display.begin(self.declaration, physical.hop.workload, catalog)
        complete = False
        try:
            with interruptible() as interrupted, _quick_turns(), closing(recorder):
                complete = executor.run(ready.profiler.workers.values(), earlier, interrupted)
        except BaseException:
            self.display.end("interrupted")
            with suppress(StoreError):  # what ended the run is to be told, not that this too could not be written
                _note_end(catalog, "interrupted", number)
            raise
        status = "finished" if complete else "interrupted"
        self.display.end(status)
        _note_end(catalog, status, number)
        return complete

    def _recorder(self, catalog: Catalog, ready: "_Ready", number: int, past: Mapping[str, Resumption]) -> Recorder:
        digests = {model: part.state_digest for model, part in past.items() if part.state_digest}
        lineage = self._lineage(ready.fingerprint)
        return Recorder(
            catalog,
            self.folder.checkpoints,
            lineage,
            self._finish(),
            Origin(number, ready.opened_at),
            digests,
            behind_max=self.means.workers,
        )

    def _note_pilot(self, catalog: Catalog, report: PilotReport, ended: Collection[str]) -> None:
        """Keep what the pilot found of the models that are to be trained; what became of the others stands."""
        with catalog.transaction():
            for model, profile in _without(report.profiles, ended).items():
                badge = badge_of(profile, self.declaration.spec.order)
                catalog.set_model(model, architecture=profile.architecture, badge=badge)
                if profile.impure_tensor:
                    catalog.add_event("engine", "impure", {"model": model, "tensor": profile.impure_tensor})
            for model, failure in _without(report.failures, ended).items():
                status, error = failure.status, failure.error
                catalog.set_model(model, status=status, error=error, traceback=failure.traceback)
                catalog.add_event("engine", f"model {status}", {"model": model, "error": error})

    def _note_start(self, catalog: Catalog, physical: PhysicalPlan, profiles: Mapping[str, Profile]) -> int:
        means = asdict(self.means)
        with catalog.transaction():
            number = catalog.add_command("user", "run", means)
            catalog.add_event("user", "run started", {"run": number, **means, "device": self.device})
            catalog.set_experiment(status="running", plan=canonical_json(plan_record(physical, profiles)))
        return number

    def program(self) -> Program:
        spec = self.declaration.spec
        return Program(
            build=spec.build,
            data=self.declaration.dataset.path,
            configs=self.declaration.configs,
            seed=spec.seed,
            independent=spec.independent,
            device=self.device,
        )

    def _restore(self, model: str) -> bytes | None:
        """The durable state of a model; asked by the engine while this run holds the experiment."""
        if not self.folder.exists:
            return None  # a pilot, before the experiment has begun
        with closing(self.folder.reader()) as reader:
            checkpoint = reader.last_checkpoints().get(model)
        return self.folder.checkpoints.read(checkpoint["state_digest"]) if checkpoint else None

    def _finish(self) -> Finish:
        scan = self.declaration.train.scan
        return Finish(self.declaration.spec.epochs, len(scan.train_rows), len(scan.valid_rows))

    def _lineage(self, fingerprint: Mapping[str, Any]) -> Lineage:
        declaration = self.declaration
        splits = declaration.dataset.splits
        return Lineage(
            plan_id=declaration.plan_id,
            fingerprint=digest(fingerprint),
            configs={model: digest(config) for model, config in declaration.configs.items()},
            repeat=0,
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


def _note_end(catalog: Catalog, status: str, run: int) -> None:
    with catalog.transaction():
        catalog.set_experiment(status=status)
        catalog.add_event("engine", f"run {status}", {"run": run})


def badge_of(profile: Profile, order: str) -> str:
    """How far a model can be repeated: `exact`, `recorded` (from the log), or `best effort` (impure user code)."""
    if profile.impure_tensor:
        return "best effort"
    return "recorded" if order == "free" else "exact"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a question that is answered yes after Ctrl-C; a second Ctrl-C interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def note(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Threads take turns quickly: a worker that asks for its next unit waits for no more than a short turn of the
    recorder (the interpreter's default, 5 ms, is as long as some units).
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _common_fingerprint(joined: list[WorkerJoined]) -> Mapping[str, Any]:
    first = joined[0].fingerprint
    for other in joined[1:]:
        if other.fingerprint != first:
            raise EngineError(
                f"workers {joined[0].worker} and {other.worker} compute different bits: "
                f"{_changes(first, other.fingerprint)}; use workers of one kind"
            )
    return first


def _check_fingerprint(before: Mapping[str, Any], now: Mapping[str, Any], folder: ExperimentFolder) -> None:
    if dict(before) != dict(now):
        raise StoreError(
            f"experiment {folder.path.name!r} began on other numerics: {_changes(before, now)}. Its models would not "
            "be repeatable: go on where it began, or give it another name"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} is now {now.get(name)}" for name in names)
