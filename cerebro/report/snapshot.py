"""How far an experiment is, as one value: what the live display and `cerebro top` draw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.messages import Unit

ENDED = frozenset({"finished", "failed", "diverged", "stopped"})
"""The statuses in which a model has no more units to come."""


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """How far one model is."""

    model: str
    config: Mapping[str, Any]
    """Flat, and only what varies between the models."""
    status: str
    units_done: int
    units_total: int
    epoch: int
    """The epochs that are complete."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The newest metrics, as `train.loss`; those of the train split may be of an unfinished epoch."""
    curve: tuple[float, ...] = ()
    """The deciding metric after each epoch seen."""
    error: str = ""

    @property
    def value(self) -> float | None:
        """The deciding metric after the last complete epoch."""
        return self.curve[-1] if self.curve else None


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """What one worker does."""

    worker: int
    unit: Unit | None
    """What it runs now; None when it is idle, or when that is not known."""
    busy_share: float
    """Seconds in units over seconds since it joined, from 0 to 1."""
    last: Unit | None = None
    """What it ran last, where what it runs now is not known."""
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An experiment at one moment."""

    name: str
    metric: str
    mode: str
    status: str
    elapsed_seconds: float
    eta_seconds: float | None
    """None: nothing to reckon with yet."""
    units_done: int
    units_total: int
    epochs: int
    models: tuple[ModelProgress, ...] = ()
    workers: tuple[WorkerProgress, ...] = ()
    budget: str = ""
    """How much of it is spent, such as `12 of 60 min, 20 %`; nothing where there is none."""


def eta(remaining: Mapping[str, float], workers: int, ratio: float) -> float:
    """Seconds until the end: the nominal seconds that remain by model, shared by the workers, as slow as seen so far.

    `ratio` is observed over nominal seconds. A model is on one worker at a time, so it takes no less than its longest
    chain.
    """
    if not remaining:
        return 0.0
    return max(sum(remaining.values()) / max(workers, 1), *remaining.values()) * ratio
