"""What the optimizer decides by: what is to be done, what a pilot measured, and what the user and the machine allow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.operators.hop import Goal
from cerebro.plan.cost import Profile
from cerebro.plan.features import Features
from cerebro.plan.workload import Done
from cerebro.storage.disk import DiskSpeed


@dataclass(frozen=True, slots=True)
class Means:
    """What a plan may use."""

    workers: int
    policy: str
    engine: str
    features: Features = field(default_factory=Features)
    """What is to be done about derived columns."""
    fuse: bool = True
    """Whether models may be trained in one pass."""
    fork: bool = True
    """Whether models that begin alike may be trained once there."""
    tapes: bool = True
    """Whether batches may be played."""
    shard_bytes: int | None = None
    """How much of the shards memory may hold, over all workers; None: all."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be trained, by model."""

    configs: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Profile]
    goals: Mapping[str, Goal] = field(default_factory=dict[str, Goal])
    """How far, where that is not the end of the experiment."""
    done: Mapping[str, Done] = field(default_factory=dict[str, Done])
    """How far they have come."""
    repeats: Mapping[str, int] = field(default_factory=dict[str, int])
    """Which of the seeds of its config each is, where that is not the first."""

    def epochs_left(self, until: int) -> dict[str, int]:
        """The epochs that each model is yet to train; `until` is the end of the experiment."""
        return {
            model: max(0, self.goals.get(model, Goal(until)).until - self.done.get(model, Done()).epoch + 1)
            for model in self.configs
        }


@dataclass(frozen=True, slots=True)
class Given:
    """All that a rule may look at beside the tree."""

    work: Work
    means: Means
    seed: int = 0
    """Of the policy."""
    apart: str = ""
    """Why no two models of the experiment may make a visit in one pass, if it is so."""
    memory_bytes: int | None = None
    """Free memory, where the system says."""
    disk_bytes: float = 0.0
    """What derived columns may take of the disk."""
    disk: DiskSpeed = field(default_factory=DiskSpeed)
    """How fast that is."""
    data_bytes: int = 0
    """Of all shards that are visited."""
