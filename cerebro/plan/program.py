"""What every worker must know to run any unit of one experiment."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cerebro.ids import digest
from cerebro.messages import Unit
from cerebro.spec.stages import at_epoch
from cerebro.streams import Key

SHARDS_BYTES = 32 << 20
"""What a worker keeps mapped of shards, at least one."""
LEARNERS_BYTES = 256 << 20
"""What the states of the learners may have that a worker keeps, at least one."""

Start = Literal["own", "keep", "reset"]
"""The state before a unit is the model's own; or it is another config's, whose weights are taken over, and what its
optimizer remembers is kept or not."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """The state of another model that a warm clone starts from, and how far that one had come."""

    model: str
    state_digest: str
    optimizer: Literal["keep", "reset"]
    """Whether the state of the optimizer is taken over with the weights; its settings are the clone's own."""
    epoch: int
    """The epoch of the clone's first unit, from 1."""
    train_shards: tuple[int, ...] = ()
    """The train shards that were visited in that epoch, in order."""
    measuring: bool = False
    """Whether all train shards were visited, and only valid ones are left in that epoch."""
    experiment: str = ""
    """The experiment that it is of; empty: the clone's own."""

    def is_adopted_by(self, unit: Unit) -> bool:
        """Whether `unit` of the clone starts from the ancestor's state: up to its first train unit all do."""
        first = (self.epoch + 1, 0) if self.measuring else (self.epoch, len(self.train_shards))
        if unit.kind == "train":
            return (unit.epoch, unit.position) == first
        return unit.kind == "valid" and unit.epoch < first[0]


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a program: what makes it the model it is."""

    config: Mapping[str, Any]
    repeat: int = 0
    """Which of the seeds of its config this is: part of the key of every random stream."""
    ancestor: Ancestor | None = None

    def config_in(self, epoch: int) -> dict[str, Any]:
        """Its config with the values that hold in an epoch."""
        return at_epoch(self.config, epoch)

    def starts(self, unit: Unit) -> Start:
        """What the state before a unit is to the model that makes it."""
        if self.ancestor is not None and self.ancestor.is_adopted_by(unit):
            return self.ancestor.optimizer
        begins = unit.kind == "train" and unit.position == 0 and unit.epoch > 1
        if begins and digest(self.config_in(unit.epoch)) != digest(self.config_in(unit.epoch - 1)):
            return "keep"
        return "own"

    def as_json(self) -> dict[str, Any]:
        """The member as JSON; `member_of` is the inverse."""
        value = asdict(self)
        if self.ancestor is not None and not self.ancestor.experiment:
            del value["ancestor"]["experiment"]
        return value


def stream_key(seed: int, independent: bool, member: Member, stream: str, *parts: int | str) -> Key:
    """The key of a random stream of a model: the same for all models unless they are to be independent."""
    own = (digest(member.config),) if independent else ()
    return (seed, stream, member.repeat, *parts, *own)


def member_of(value: Mapping[str, Any]) -> Member:
    """The member that `as_json` wrote."""
    found = value["ancestor"]
    fields: dict[str, Any] = {**found, "train_shards": tuple(found["train_shards"])} if found else {}
    return Member(value["config"], value["repeat"], Ancestor(**fields) if found else None)


@dataclass(frozen=True)
class Program:
    """The part of an experiment that its workers share; only `build` is code."""

    build: Callable[[Mapping[str, Any]], Any]
    data: Path
    seed: int
    members: Mapping[str, Member] = field(default_factory=dict[str, Member])
    """The models that are known from the beginning, by id; an engine may be told of more."""
    independent: bool = False
    device: str = "cpu"
    """`cpu`, or `cuda` for one worker per GPU."""
    exact: bool = True
    """Whether how steps are computed must not change a bit."""
    precision: str = "float32"
    """`float32`, or `bf16` for autocast."""
    tapes: bool = True
    """Whether batches may be played (`cerebro.training.player`)."""
    trials: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What trials of kernels have shown in a pilot on this machine, for `cerebro.training.fused.remembered`."""
    data_digest: str | None = None
    """Of the dataset as it was, where it may have grown since."""

    @property
    def settings(self) -> dict[str, Any]:
        """What is neither code, nor models, nor where the data are."""
        names = ("seed", "independent", "device", "exact", "precision", "tapes", "trials", "data_digest")
        return {name: getattr(self, name) for name in names}
