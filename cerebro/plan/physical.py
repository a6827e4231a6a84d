"""The physical plan: operators, what they cost, and the work they hand to the scheduler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.plan.considered import Considered
from cerebro.plan.cost import Cost, Profile
from cerebro.plan.features import Features
from cerebro.plan.forking import Forking, epochs_text
from cerebro.plan.fusing import Fused, Fusing
from cerebro.plan.logical import Select, varying_names
from cerebro.plan.node import Node
from cerebro.plan.workload import Workload
from cerebro.quantities import bytes_text, count_text, seconds_text


@dataclass(frozen=True)
class TrainGroup(Node):
    """Models of one architecture, trained alone or in passes."""

    configs: Mapping[str, Mapping[str, Any]]
    profile: Profile
    told_apart_by: tuple[str, ...] = ()
    """Names of hyper-parameters that the models of this group share and those of other groups do not."""
    passes: int = 0
    """Into how many passes the models are shared out; 0: each is trained alone."""
    fused: Fused | None = None
    """How passes are made, where there are any."""
    kernel: str = ""
    """How each is computed alone, if not as the reference."""

    def label(self) -> str:
        varying = ", ".join(varying_names(list(self.configs.values())))
        verb = "Fuse " if self.passes else "Train"
        return f"{verb}  {self.kind()}" + (f" {{{varying}}}" if varying else "")

    def kind(self) -> str:
        """How many models of what: `8 × MLP(width=16)`."""
        first = next(iter(self.configs.values()))
        shared = ", ".join(f"{name}={first[name]}" for name in self.told_apart_by if name in first)
        return f"{len(self.configs)} × {self.profile.architecture}" + (f"({shared})" if shared else "")

    def note(self) -> str:
        """What the pilot found."""
        profile = self.profile
        fused = ""
        if self.fused is not None:
            size = -(-len(self.configs) // self.passes)
            fused = f"one {'stacked ' * self.fused.is_stacked}pass for {size}, {self.fused}   "
        shown = [rewrite for rewrite in profile.rewrites if rewrite.name in ("bf16", self.kernel)]
        rewritten = "".join(f"{rewrite}   " for rewrite in shown)
        return (
            f"{fused}{rewritten}{profile.parameters:,} parameters   "
            f"{seconds_text(profile.train_batch_seconds)} a batch of {profile.batch_size}   "
            f"state {bytes_text(profile.state_bytes)}   {profile.optimizer}"
        )


@dataclass(frozen=True)
class Materialize(Node):
    """Columns that models derive alike, computed fewer times than they are used."""

    name: str
    models: int
    rounds: int
    """How often each row is used, by all models in all epochs."""
    row_bytes: float
    stored_bytes: float
    stored_share: float
    """Of the rows; the others are computed by each worker that needs them."""
    otherwise: str
    """What is done about the others: `Share` or `Recompute`."""
    seconds: float
    recompute_seconds: float
    key: str
    """Equal where the computation is the same."""
    stored: tuple[tuple[str, int], ...]
    """The split and the index of each shard for which it is stored."""
    unstored_bytes: float
    visit_row_seconds: float
    """What a row costs on each visit: all seconds, spread evenly over the visits."""

    def label(self) -> str:
        verb = "Materialize" if self.stored_share else self.otherwise
        part = f", {self.stored_share:.0%} of the rows" if 0 < self.stored_share < 1 else ""
        return (
            f"{verb}  {self.name} ({bytes_text(self.row_bytes)} a row) for {count_text(self.models, 'model')}{part}, "
            f"{bytes_text(self.stored_bytes)} stored; else computed {self.rounds:,}×"
        )

    def note(self) -> str:
        """What it comes to."""
        return f"{seconds_text(self.seconds)} in all, else {seconds_text(self.recompute_seconds)}"


@dataclass(frozen=True)
class InBatch(Node):
    """What models could derive alike, but each has to compute in each of its batches."""

    name: str
    models: int
    reason: str

    def label(self) -> str:
        return f"InBatch  {self.name} for {count_text(self.models, 'model')}: {self.reason}"


@dataclass(frozen=True)
class StageFork(Node):
    """Models that begin alike, trained once for all until their configs part."""

    models: int
    trainings: Mapping[int, int]
    """For each epoch that is shared how many trainings are made for all models."""
    seconds: float
    """Of these epochs, on all workers together."""
    alone_seconds: float
    """The same, with each model trained for itself."""

    def label(self) -> str:
        return (
            f"StageFork  {count_text(self.models, 'model')} share epochs {epochs_text(self.trainings)}; "
            f"else trained {self.models}×"
        )

    def note(self) -> str:
        """What it comes to."""
        return f"{seconds_text(self.seconds)} of training there, else {seconds_text(self.alone_seconds)}"


@dataclass(frozen=True)
class Hop(Node):
    """Models hop between workers; each unit is one model on one shard."""

    groups: tuple[TrainGroup, ...]
    workload: Workload
    policy: str
    order: str
    engine: str
    derived: tuple[Node, ...] = ()
    """What is done about derived columns: `Materialize` and `InBatch`."""
    fusing: Fusing = field(default_factory=Fusing)
    """Which models make their visits in one pass."""
    forking: Forking = field(default_factory=Forking)
    """Which models are trained as one in their first epochs."""
    forks: tuple[StageFork, ...] = ()

    def label(self) -> str:
        chain = self.workload.chains[0]
        valid = f" (+ {len(chain.valid_seconds)} valid)" if chain.valid_seconds else ""
        epochs = {chain.epochs for chain in self.workload.chains}
        length = count_text(max(epochs), "epoch")
        return (
            f"Hop  {'up to ' * (len(epochs) > 1)}{length} · {count_text(len(self.workload.chains), 'model')} × "
            f"{count_text(len(chain.train_seconds), 'shard')}{valid} on "
            f"{count_text(self.workload.workers, f'{self.engine} worker')}"
        )

    def children(self) -> tuple[Node, ...]:
        return (*self.derived, *self.forks, *self.groups)


@dataclass(frozen=True)
class PhysicalPlan:
    """A plan that can be run."""

    root: Select
    hop: Hop
    cost: Cost
    lower_bound_seconds: float
    """No schedule of these units can be shorter."""
    features: Features
    """What workers do about derived columns."""
    rewritten: Select
    """The logical plan, as the optimizer has rewritten it before it was cut into units."""
    considered: tuple[Considered, ...] = ()
    """What the optimizer has weighed."""
