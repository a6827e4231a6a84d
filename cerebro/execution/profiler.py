"""The pilot: builds every config once, and times a few batches of each distinct architecture."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Any

from cerebro.errors import InternalError
from cerebro.execution.deadlines import Deadlines
from cerebro.execution.engine import Engine
from cerebro.execution.scheduler import DEATHS_MAX
from cerebro.messages import Event, Pilot, Piloted, PilotFailed, WorkerJoined, WorkerLost
from cerebro.plan.cost import Derivation, Profile, Rewrite, Together

BATCHES = 3
"""Batches that a pilot times; they are run twice, which also shows whether the user's code is deterministic."""

TOGETHER_SECONDS, TOGETHER_BATCHES_MAX = 0.02, 40
"""What each model is trained for to compare it with being trained in a pass."""

_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PilotReport:
    """What the pilot found out about each model."""

    profiles: Mapping[str, Profile]
    failures: Mapping[str, PilotFailed]
    trials: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What trials of kernels have shown on the workers, by rule, for those of later runs."""


@dataclass
class Profiler:
    """Runs pilots on an engine that is already open.

    `workers` are the idle ones; those that join meanwhile are added to it.
    """

    engine: Engine
    workers: dict[int, WorkerJoined] = field(default_factory=dict)
    deadlines: Deadlines = field(default_factory=Deadlines)
    trials: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """As those of a report: what was shown so far."""

    def wait_for_workers(self, count: int) -> None:
        """Wait until `count` workers have joined; one that takes for ever is killed, and started again."""
        for worker in range(count):
            self.deadlines.starting(worker)
        while len(self.workers) < count:
            match event := self._next():
                case WorkerJoined(worker):
                    self.workers[worker] = event
                case WorkerLost(worker):
                    self.workers.pop(worker, None)
                case _:
                    raise InternalError(f"while workers were to join, the engine said: {event}")

    def run(self, models: Sequence[str]) -> PilotReport:
        """Profiles of all `models`; one model of each signature is timed for all that share it.

        Where that one fails it fails alone, and the next of the same signature is timed.
        """
        described, failures = self._pilot_all(models, lambda model: 0)
        costs: dict[str, dict[str, Any]] = {}
        while chosen := _one_of_each(described, without=costs.keys()):
            timed, failed = self._pilot_all(self._on_all_workers(chosen), lambda model: BATCHES)
            costs |= {described[model]["signature"]: profile for model, profile in timed.items()}
            described = {model: profile for model, profile in described.items() if model not in failed}
            failures |= failed
        profiles = {
            model: as_profile(_together([profile, costs[profile["signature"]]])) for model, profile in described.items()
        }
        return PilotReport(profiles, failures)

    def run_together(self, groups: Sequence[tuple[str, ...]], profiles: Mapping[str, Profile]) -> dict[str, Together]:
        """What is gained by training the models of each group in one pass, by the group's first model."""
        fellows = {models[0]: models[1:] for models in groups}
        models = self._on_all_workers(list(fellows))
        found, failures = self._pilot_all(models, lambda model: _batches_of(profiles[model]), fellows)
        sizes = {model: len(others) + 1 for model, others in fellows.items()}
        self.trials = _united([self.trials, *(profile["trials"] for profile in found.values())])
        tried = {model: Together(sizes[model], **profile["together"]) for model, profile in found.items()}
        return tried | {model: Together(sizes[model], failed.error) for model, failed in failures.items()}

    def _on_all_workers(self, models: list[str]) -> list[str]:
        """The models so often that all workers are busy, as when units are run: they share caches, memory and power."""
        return models * max(1, len(self.workers) // max(1, len(models)))

    def _pilot_all(
        self,
        models: Sequence[str],
        batches: Callable[[str], int],
        fellows: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> tuple[dict[str, dict[str, Any]], dict[str, PilotFailed]]:
        pilots = _Pilots(deque(models))
        while not pilots.ended:
            for worker in sorted(self.workers.keys() - pilots.running.keys()):
                if pilots.waiting:
                    model = pilots.begin(worker)
                    self._submit(Pilot(model, worker, batches(model), fellows.get(model, ())))
            self._hear(pilots)
        found = {model: pilots.profiles[model] for model in models if model in pilots.profiles}
        well = {model: _together(profiles) for model, profiles in found.items() if model not in pilots.failures}
        return well, pilots.failures

    def _next(self) -> Event:
        """The next event; workers that are past their deadline are killed meanwhile."""
        while (event := self.engine.wait(_TICK_SECONDS)) is None:
            for late in self.deadlines.late():
                self.engine.kill_worker(late.worker, late.cause)
        self.deadlines.heard(event)
        return event

    def _submit(self, pilot: Pilot) -> None:
        self.engine.submit(pilot)
        self.deadlines.submitted(pilot)

    def _hear(self, pilots: "_Pilots") -> None:
        """Take in all that has happened by now: a worker that seems idle may be known to be dead."""
        event: Event | None = self._next()
        while event is not None:
            match event:
                case Piloted() | PilotFailed():
                    pilots.answer(event)
                case WorkerLost(worker, cause):
                    self.workers.pop(worker, None)
                    pilots.lose(worker, cause)
                case WorkerJoined(worker):
                    self.workers[worker] = event
                case _:
                    raise InternalError(f"not an answer to a pilot: {event}")
            if (event := self.engine.wait(0)) is not None:
                self.deadlines.heard(event)


@dataclass
class _Pilots:
    """The pilots of one round: those to come, those that run, and what the others found."""

    waiting: deque[str]
    """A model that is piloted on several workers is there as often."""
    running: dict[int, str] = field(default_factory=dict)
    """The model on each busy worker."""
    profiles: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, PilotFailed] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    """How many workers have died on each model."""

    @property
    def ended(self) -> bool:
        return not self.waiting and not self.running

    def begin(self, worker: int) -> str:
        """The model to pilot on `worker`."""
        self.running[worker] = self.waiting.popleft()
        return self.running[worker]

    def answer(self, event: Piloted | PilotFailed) -> None:
        """A pilot has ended, well or not."""
        model = self.running.pop(event.worker)
        if isinstance(event, Piloted):
            self.profiles.setdefault(model, []).append(dict(event.profile))
        else:
            self._fail(event)

    def lose(self, worker: int, cause: str) -> None:
        """A worker died; the model that it piloted is tried again, unless it has killed too many."""
        model = self.running.pop(worker, None)
        if model is None or model in self.failures:
            return
        self.deaths[model] += 1
        if self.deaths[model] < DEATHS_MAX:
            self.waiting.appendleft(model)
        else:
            reason = f"{DEATHS_MAX} workers died on its pilot, the last one: {cause}"
            self._fail(PilotFailed(model, worker, reason))

    def _fail(self, failed: PilotFailed) -> None:
        self.failures.setdefault(failed.model, failed)
        self.waiting = deque(model for model in self.waiting if model != failed.model)


_TIMES = (
    "train_batch_seconds", "valid_batch_seconds", "first_seconds", "noting_seconds", "call_seconds", "build_seconds",
    "trace_seconds",
)  # fmt: skip


def _together(profiles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several pilots of a model found: the mean of the times, and the largest size of a worker."""
    found = {name: value for profile in reversed(profiles) for name, value in profile.items()}
    for name in found.keys() & _TIMES:
        found[name] = fmean(profile[name] for profile in profiles if name in profile)
    if impure := [profile["impure_tensor"] for profile in profiles if profile.get("impure_tensor")]:
        found["impure_tensor"] = impure[0]
    if "together" in found:
        found["together"] = _compared([profile["together"] for profile in profiles])
        found["trials"] = _united([profile["trials"] for profile in profiles])
    return found | {"peak_bytes": max(profile.get("peak_bytes", 0) for profile in profiles)}


def _compared(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several workers say of one group: the means; that it cannot be, if one says so."""
    whole = {name: value for each in found for name, value in each.items()}
    for name in whole.keys() - {"why_not"}:
        values = [each[name] for each in found if name in each]
        whole[name] = max(values) if name == "deviation" else fmean(values)
    return whole


def _united(found: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What trials have shown, by rule, in several processes."""
    whole = dict[str, dict[str, Any]]()
    for rule, shown in (item for each in found for item in each.items()):
        whole.setdefault(rule, {}).update(shown)
    return whole


def _one_of_each(described: Mapping[str, Mapping[str, Any]], without: Collection[str]) -> list[str]:
    """The first model of each signature, but of those `without`."""
    first: dict[str, str] = {}
    for model, profile in described.items():
        if profile["signature"] not in without:
            first.setdefault(profile["signature"], model)
    return list(first.values())


def _batches_of(profile: Profile) -> int:
    """How many batches models are compared on: as many as take a while, since a pass has a beginning of its own."""
    return max(BATCHES, min(TOGETHER_BATCHES_MAX, round(TOGETHER_SECONDS / max(1e-9, profile.train_batch_seconds))))


def as_profile(values: Mapping[str, Any]) -> Profile:
    """The profile that a worker sent, or that was remembered, as JSON."""
    derived = tuple(Derivation(**part) for part in values.get("derived", ()))
    together = Together(**values["together"]) if values.get("together") else None
    rewrites = tuple(Rewrite(**rewrite) for rewrite in values.get("rewrites", ()))
    fields: dict[str, Any] = {
        **values, "metrics": tuple(values["metrics"]), "derived": derived, "together": together, "rewrites": rewrites,
    }  # fmt: skip
    return Profile(**fields)
