"""What the scheduler is given: for each model the units it has to go through, and where they may run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """How a model makes its visits of one epoch together with others."""

    group: str
    """Models of one group make a visit in one pass wherever they come to it together."""
    share: bool = False
    """Those of them whose configs and states are equal there are trained once for all."""
    fuse: bool = True
    """Those that differ are trained at once, if they can be; otherwise one after another."""
    train_part: float = 1.0
    """What part of its nominal seconds a train visit of this model costs there."""
    valid_part: float = 1.0


@dataclass(frozen=True, slots=True)
class PassGain:
    """By how much visits are quicker in a pass, which is taken to be linear in the number of its models.

    In a larger pass than that of which it is known each model is taken to gain no more.
    """

    models: int
    """The models of the pass that a chain's nominal seconds are a share of; two at least."""
    train_gain: float
    valid_gain: float
    unit_seconds: float
    """What a unit takes beside its batches, of which nothing is gained."""

    def share(self, kind: str, seconds: float, models: int) -> float:
        """A model's share of a pass of so many `models`, where it has `seconds` in the pass of the chain."""
        gain = self.train_gain if kind == "train" else self.valid_gain
        once = self.models * (gain - 1) / (self.models - 1)  # what a pass takes however many models are in it
        models = min(models, self.models)
        return self.unit_seconds + (seconds - self.unit_seconds) * (1 + once * (1 / models - 1 / self.models))


@dataclass(frozen=True, slots=True)
class Chain:
    """The work of one model: `epochs` times every train shard once, then every valid shard once.

    Within an epoch the train visits come first; the valid visits follow, by ascending shard, and train units of
    the next epoch come after them (a model is on at most one worker, so its units form a chain).
    """

    model: str
    epochs: int
    train_seconds: tuple[float, ...]
    """Nominal seconds of one visit of each train shard."""
    valid_seconds: tuple[float, ...]
    """Nominal seconds of one visit of each valid shard; empty without a valid split."""
    orders: tuple[Order, ...] | None
    """For each epoch the train shard at each position; None: any order, as the scheduler picks (`free`)."""
    due: float = 0.0
    """What decides first: among models that may run, those that are due earlier go before all others."""
    group: str = ""
    """Models of one group make a visit in one pass wherever they come to it together; without a group each alone."""
    kernel: str = ""
    """How its steps are computed, where that may change bits (`cerebro.plan.kernels`)."""
    pass_gain: PassGain | None = None
    """What the nominal seconds say of smaller passes, in a group."""
    passes: tuple[Pass, ...] = ()
    """How it goes together with others in the first epochs, where that is not in its group."""

    def pass_in(self, epoch: int) -> Pass | None:
        """How it makes its visits of an epoch, from 1, together with others; None: it does not."""
        if epoch <= len(self.passes):
            return self.passes[epoch - 1]
        return Pass(self.group) if self.group else None

    def group_in(self, epoch: int) -> str:
        """The group with which it makes its visits of an epoch; empty: alone."""
        return self.passes[epoch - 1].group if epoch <= len(self.passes) else self.group

    def seconds(self, kind: str, epoch: int, shard: int) -> float:
        """Nominal seconds of a visit."""
        found = self.passes[epoch - 1] if epoch <= len(self.passes) else None
        if kind == "train":
            return self.train_seconds[shard] * (found.train_part if found else 1.0)
        return self.valid_seconds[shard] * (found.valid_part if found else 1.0)

    def epoch_seconds(self, epoch: int) -> float:
        """Nominal seconds of all visits of an epoch."""
        train, valid = range(len(self.train_seconds)), range(len(self.valid_seconds))
        return sum(self.seconds("train", epoch, s) for s in train) + sum(self.seconds("valid", epoch, s) for s in valid)


@dataclass(frozen=True, slots=True)
class Done:
    """How far a model has come: what a resumed scheduler starts from."""

    epoch: int = 1
    """The epoch that the next unit belongs to, from 1."""
    train_shards: Order = ()
    """The train shards visited in that epoch, in order."""
    valid_visits: int = 0
    """The number of valid shards visited in that epoch."""


@dataclass(frozen=True, slots=True)
class ShardMemory:
    """What the shards take, and how much of it memory may hold at once, over all workers."""

    train_bytes: tuple[int, ...]
    """Of each train shard."""
    valid_bytes: tuple[int, ...]
    limit_bytes: int

    @property
    def is_short(self) -> bool:
        """Whether not all shards can be held."""
        return sum(self.train_bytes) + sum(self.valid_bytes) > self.limit_bytes

    def size(self, split: str, shard: int) -> int:
        """Bytes of one shard."""
        return (self.train_bytes if split == "train" else self.valid_bytes)[shard]


@dataclass(frozen=True, slots=True)
class Workload:
    """All chains, and the workers that they share.

    With `pinned`, train shard s and valid shard s can be visited on worker `s % workers` alone, and a shard serves
    one unit at a time; otherwise any worker may visit any shard at any time.
    """

    chains: tuple[Chain, ...]
    workers: int
    pinned: bool = False
    done: Mapping[str, Done] = field(default_factory=dict)
    """Progress by model, for the models that have any."""
    beginning_seconds: float = 0.0
    """What each worker takes beside its units, once: to build learners, and whatever is slower the first time."""
    memory: ShardMemory | None = None
    """Where it matters how often shards are read."""


@dataclass(frozen=True, slots=True)
class Assign:
    """A change of a workload: from now on this is the chain of its model, which may be a new one."""

    chain: Chain
    done: Done = field(default_factory=Done)
    """How far a new model has come; one that is known stays where it is."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A change of a workload: nothing more of this model is launched, until it is assigned a chain again."""

    model: str


Change = Assign | Hold
