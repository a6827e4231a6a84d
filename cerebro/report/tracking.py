"""The progress of a running experiment: a fold over launches and events, without clock and without output."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.messages import (
    Event,
    Launch,
    PilotFailed,
    Ruling,
    Unit,
    UnitFailed,
    UnitFinished,
    WorkerJoined,
    WorkerLost,
)
from cerebro.plan.workload import Chain, Done, Workload
from cerebro.report.snapshot import ENDED, ModelProgress, Snapshot, WorkerProgress, eta
from cerebro.report.wording import first_line, flat, split_keys
from cerebro.spec.experiment import objective

Values = Mapping[str, Mapping[str, float | None]]
"""Metrics by split and name, as in a row of the leaderboard."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is being run."""

    name: str
    metric: str
    mode: str
    configs: Mapping[str, Mapping[str, Any]]
    workload: Workload


@dataclass(slots=True)
class _Model:
    config: dict[str, Any]
    status: str
    done: int = 0
    total: int = 0
    epoch: int = 0
    remaining: float = 0.0
    """Nominal seconds."""
    chain: Chain | None = None
    values: dict[str, float] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(slots=True)
class _Worker:
    joined: float
    unit: Unit | None = None
    since: float = 0.0
    busy: float = 0.0
    lost: bool = False


class Tracking:
    """What is known of a running experiment; every method is told the time and is O(1), `snapshot` is O(models)."""

    def __init__(
        self,
        goal: Goal,
        now: float,
        done_values: Mapping[str, Values] | None = None,
        statuses: Mapping[str, str] | None = None,
    ) -> None:
        self.goal = goal
        self._split, self._metric = objective(goal.metric)
        self._begun = now
        self._observed = self._nominal = 0.0
        self._timed = _timed(goal.workload)
        self._workers: dict[int, _Worker] = {index: _Worker(now) for index in range(goal.workload.workers)}
        configs = {model: flat(config) for model, config in goal.configs.items()}
        self._varying, _ = split_keys(list(configs.values()))
        chains = {chain.model: chain for chain in goal.workload.chains}
        self.models: dict[str, _Model] = {}
        for model, config in configs.items():
            shown = self._shown(config)
            done = goal.workload.done.get(model, Done())
            state = self._started(shown, chains.get(model), done, (statuses or {}).get(model))
            self._remember(state, (done_values or {}).get(model, {}))
            self.models[model] = state

    def launched(self, launch: Launch, now: float) -> None:
        """A unit was handed to a worker."""
        worker = self._worker(launch.worker, now)
        worker.unit, worker.since, worker.lost = launch.unit, now, False
        model = self.models.get(launch.unit.model)
        if model is not None and model.status not in ENDED:
            model.status = "training"

    def happened(self, event: Event, now: float) -> str | None:
        """Take in an event; gives the model that it ended, if it did."""
        match event:
            case UnitFinished():
                self._free(event.worker, now, event.seconds)
                return self._finished(event)
            case UnitFailed():
                self._free(event.worker, now, None)
                return self.ended(event.unit.model, event.status, event.error)
            case PilotFailed():
                return self.ended(event.model, event.status, event.error)
            case WorkerLost():
                self._free(event.worker, now, None)
                self._worker(event.worker, now).lost = True
            case WorkerJoined():
                self._worker(event.worker, now).lost = False
            case _:
                pass
        return None

    def ruled(self, ruling: Ruling, chain: Chain | None) -> None:
        """Something was decided; `chain` is the work that its model has from now on, if that has changed."""
        if ruling.model is None:
            return
        if ruling.member is not None:
            done = Done(ruling.epoch + 1)
            self.models[ruling.model] = self._started(self._shown(flat(ruling.member["config"])), chain, done, None)
            return
        model = self.models.get(ruling.model)
        if model is None or model.status in ("failed", "diverged"):
            return
        if ruling.kind in ("paused", "stopped", "model finished"):
            model.status, model.remaining = ruling.kind.removeprefix("model "), 0.0
        elif chain is not None:
            per_epoch = len(chain.train_seconds) + len(chain.valid_seconds)
            model.chain, model.total = chain, chain.epochs * per_epoch
            model.status = "training" if model.done else "waiting"
            model.remaining = self._remaining(chain, Done(model.epoch + 1))

    def _shown(self, config: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: config[key] for key in self._varying if key in config}
        return shown or dict(config)

    def ended(self, model: str, status: str, error: str = "") -> str | None:
        """A model has no more units to come; gives its id, or None where that was known."""
        state = self.models.get(model)
        if state is None or state.status in ENDED:
            return None
        state.status, state.error, state.remaining = status, first_line(error), 0.0
        return model

    def snapshot(self, now: float, status: str = "running") -> Snapshot:
        """The present moment as a value."""
        models = tuple(self._model_progress(model, state) for model, state in self.models.items())
        return Snapshot(
            name=self.goal.name,
            metric=self.goal.metric,
            mode=self.goal.mode,
            status=status,
            elapsed_seconds=now - self._begun,
            eta_seconds=self._eta(now),
            units_done=sum(state.done for state in self.models.values()),
            units_total=sum(expected_units(model) for model in models),
            epochs=max((chain.epochs for chain in self.goal.workload.chains), default=0),
            models=models,
            workers=tuple(self._worker_progress(index, now) for index in sorted(self._workers)),
        )

    def model(self, model: str) -> ModelProgress:
        """How far one model is."""
        return self._model_progress(model, self.models[model])

    def _started(self, config: dict[str, Any], chain: Chain | None, done: Done, status: str | None) -> _Model:
        if chain is None:
            return self._over(config, status or "finished")
        train, valid = len(chain.train_seconds), len(chain.valid_seconds)
        visits = (done.epoch - 1) * (train + valid) + len(done.train_shards) + done.valid_visits
        model = _Model(config, status or "waiting", visits, chain.epochs * (train + valid), done.epoch - 1, chain=chain)
        model.remaining = self._remaining(chain, done)
        if model.done >= model.total and model.status not in ENDED:
            model.status = "finished"
        return model

    def _over(self, config: dict[str, Any], status: str) -> _Model:
        """A model without a chain: one that has finished went through as much as the others will."""
        like = next(iter(self.goal.workload.chains), None)
        if status != "finished" or like is None:
            return _Model(config, status)
        units = like.epochs * (len(like.train_seconds) + len(like.valid_seconds))
        return _Model(config, status, units, units, like.epochs)

    def _remaining(self, chain: Chain, done: Done) -> float:
        if not self._timed:
            per_epoch = len(chain.train_seconds) + len(chain.valid_seconds)
            return float((chain.epochs - done.epoch + 1) * per_epoch - len(done.train_shards) - done.valid_visits)
        whole = sum(map(chain.epoch_seconds, range(done.epoch, chain.epochs + 1)))
        visited = sum(chain.seconds("train", done.epoch, shard) for shard in done.train_shards)
        return max(0.0, whole - visited - sum(chain.seconds("valid", done.epoch, s) for s in range(done.valid_visits)))

    def _remember(self, model: _Model, values: Values) -> None:
        for split, by_name in values.items():
            model.values.update({f"{split}.{name}": value for name, value in by_name.items() if value is not None})
        value = model.values.get(f"{self._split}.{self._metric}")
        if value is not None:
            model.curve.append(value)

    def _finished(self, event: UnitFinished) -> str | None:
        unit = event.unit
        model = self.models.get(unit.model)
        if model is None or model.chain is None:
            return None
        nominal = self._nominal_seconds(model.chain, unit)
        self._observed += event.seconds
        self._nominal += nominal
        model.remaining = max(0.0, model.remaining - nominal)
        model.done += 1
        train, valid = len(model.chain.train_seconds), len(model.chain.valid_seconds)
        ends_split = unit.position == (train if unit.kind == "train" else valid) - 1
        if unit.kind == "train" or ends_split:
            model.values.update({f"{unit.kind}.{name}": value for name, value in event.values.items()})
        if ends_split and unit.kind == self._split and self._metric in event.values:
            model.curve.append(event.values[self._metric])
        if ends_split and (unit.kind == "valid" or not valid):
            model.epoch = unit.epoch
        return self.ended(unit.model, "finished") if model.done >= model.total else None

    def _nominal_seconds(self, chain: Chain, unit: Unit) -> float:
        if not self._timed:
            return 1.0
        shards = len(chain.train_seconds if unit.kind == "train" else chain.valid_seconds)
        return chain.seconds(unit.kind, unit.epoch, unit.shard) if unit.shard < shards else 0.0

    def _worker(self, index: int, now: float) -> _Worker:
        return self._workers.setdefault(index, _Worker(now))

    def _free(self, index: int, now: float, seconds: float | None) -> None:
        if index < 0:
            return  # a model that was given up fails on no worker
        worker = self._worker(index, now)
        if worker.unit is not None:
            worker.busy += now - worker.since if seconds is None else seconds
        worker.unit = None

    def _eta(self, now: float) -> float | None:
        if not self._timed and not self._nominal:
            return None
        ratio = self._observed / self._nominal if self._nominal and self._observed else 1.0
        remaining = {model: state.remaining for model, state in self.models.items() if state.remaining > 0}
        for worker in self._workers.values():
            chain = self.models[worker.unit.model].chain if worker.unit and worker.unit.model in remaining else None
            if worker.unit is None or chain is None:
                continue
            spent = min((now - worker.since) / ratio, self._nominal_seconds(chain, worker.unit))
            remaining[worker.unit.model] = max(0.0, remaining[worker.unit.model] - spent)
        return eta(remaining, sum(not worker.lost for worker in self._workers.values()), ratio)

    def _model_progress(self, model: str, state: _Model) -> ModelProgress:
        return ModelProgress(
            model, state.config, state.status, state.done, state.total, state.epoch,
            dict(state.values), tuple(state.curve), state.error,
        )  # fmt: skip

    def _worker_progress(self, index: int, now: float) -> WorkerProgress:
        worker = self._workers[index]
        busy = worker.busy + (now - worker.since if worker.unit is not None else 0.0)
        present = now - worker.joined
        share = min(1.0, busy / present) if present > 0 else 0.0
        return WorkerProgress(index, worker.unit, share, lost=worker.lost)


def expected_units(model: ModelProgress) -> int:
    """The units of a model that have been or will be run; one that ended early has no more to come."""
    return model.units_done if model.status in ENDED else max(model.units_total, model.units_done)


def nominal_seconds(workload: Workload) -> float | None:
    """Seconds that the workload should take on its workers; None where the plan holds no times."""
    if not _timed(workload):
        return None
    chains = {c.model: sum(map(c.epoch_seconds, range(1, c.epochs + 1))) for c in workload.chains}
    return eta(chains, workload.workers, 1.0)


def _timed(workload: Workload) -> bool:
    return any(
        math.isfinite(seconds) and seconds > 0
        for chain in workload.chains
        for seconds in chain.train_seconds + chain.valid_seconds
    )
