"""The only words layers exchange at run time: commands go down, events come up.

Messages are frozen values that hold JSON and nothing else, so that they cross a pipe, a socket or a log
without pickle. `encode` and `decode` are inverse to each other.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cerebro.errors import InternalError

Kind = Literal["train", "valid", "test"]


RulingKind = Literal[
    "added", "cloned", "resumed", "extended", "paused", "stopped", "model finished", "finish", "note", "told",
    "refused", "replanned",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """One model visiting one shard once: the atom of scheduling, logging and recovery."""

    model: str
    kind: Kind
    epoch: int
    """From 1."""
    position: int
    """Place of the visit within the epoch, from 0, counted apart for `train` and `valid`."""
    shard: int
    """Index of the shard within its split."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a launch comes to its shard: from memory, or from the disk."""

    anew: bool
    """Whether memory does not hold the shard: it is read, and its hash compared."""
    drops: tuple[tuple[Kind, int], ...] = ()
    """The shards, by split and index, that leave memory to make room for it; nobody uses them."""
    stays: bool = True
    """Whether the worker may keep the shard open; where memory is short it must not, or nobody could drop it."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Command to an engine: run this unit on this worker, and its fellows with it."""

    unit: Unit
    worker: int
    fellows: tuple[Unit, ...] = ()
    """The same visit of other models, made in one pass over the shard; each ends by itself."""
    kernel: str = ""
    """How the steps are computed, where that may change bits (`cerebro.plan.kernels`)."""
    reading: Reading | None = None
    """Where it is known what memory holds."""
    share: bool = False
    """Whether those that have equal configs and equal states are trained once for all."""
    fuse: bool = True
    """Whether those that differ are trained at once, if they can be."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units of the pass."""
        return (self.unit, *self.fellows)


@dataclass(frozen=True, slots=True)
class Pilot:
    """Command to an engine: build this model and time `batches` batches of it (0: only describe it).

    With fellows the models are trained on these batches together and each alone, and the two are compared.
    """

    model: str
    worker: int
    batches: int
    fellows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Abandon:
    """Command to the recorder: workers died again and again on this unit, its model is given up."""

    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Command to the scheduler: launch nothing more; what runs may end."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is ready for units."""

    worker: int
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """What its numerics depend on: CPU features, library versions, threads, device."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died; the unit that it ran, if any, has not happened, nor have its fellows."""

    worker: int
    cause: str
    unit: Unit | None = None
    fellows: tuple[Unit, ...] = ()

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units that have not happened."""
        return () if self.unit is None else (self.unit, *self.fellows)


@dataclass(frozen=True, slots=True)
class UnitFinished:
    """A unit ended well."""

    unit: Unit
    worker: int
    started: float
    """Seconds since the engine opened, on the driver's monotonic (or virtual) clock."""
    seconds: float
    rows: int = 0
    partials: Mapping[str, Any] = field(default_factory=dict)
    """Mergeable metric state of this visit, by metric."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the whole epoch so far; final at the last position of a split."""
    moved_bytes: int = 0
    peak_bytes: int = 0
    kernel: str = ""
    """How it was computed, if not as the reference: enough to compute it again (`cerebro.plan.kernels`)."""
    read_bytes: int = 0
    """Bytes of the shard, where memory did not hold it; of a pass, the first unit that ends well has them."""
    more: bool = False
    """Whether units of the same pass are still to be told of."""


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """A unit's own code failed: this model ends, the others go on."""

    unit: Unit
    worker: int
    status: Literal["failed", "diverged"]
    error: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Piloted:
    """A model was built, and timed if that was asked."""

    model: str
    worker: int
    profile: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PilotFailed:
    """The user's code failed in the pilot."""

    model: str
    worker: int
    error: str
    traceback: str = ""
    status: Literal["failed", "diverged"] = "failed"


@dataclass(frozen=True, slots=True)
class Ruling:
    """Something was decided, by a procedure or a person; for the log, and for who carries it out."""

    kind: RulingKind
    actor: str
    """Who decided: `user` or another name of a person, or the name of a procedure."""
    model: str | None = None
    epoch: int = 0
    """The epochs that the model had finished by then."""
    until: int | None = None
    """The epoch at whose end the model pauses from now on."""
    why: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    order: str | None = None
    """The id of the order that a person gave."""
    told: int | None = 0
    """The results that the procedure had taken in by then; None where that does not matter."""
    due: float = 0.0
    member: Mapping[str, Any] | None = None
    """Of a new model: its config, its repeat and its ancestor."""
    command: Mapping[str, Any] | None = None
    """The order as it was given."""


Command = Launch | Pilot | Abandon | Drain
Event = WorkerJoined | WorkerLost | UnitFinished | UnitFailed | Piloted | PilotFailed
Message = Command | Event

_KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        Launch,
        Pilot,
        Abandon,
        Drain,
        WorkerJoined,
        WorkerLost,
        UnitFinished,
        UnitFailed,
        Piloted,
        PilotFailed,
    )
}


def to_json(message: Message) -> dict[str, Any]:
    """The message as a plain mapping, its kind under `kind`; what it holds of JSON is not copied."""
    return {"message": type(message).__name__, **_plain(message)}


def _plain(value: Any) -> Any:
    """A value with a mapping in the place of each dataclass: a pass has hundreds, and `dataclasses.asdict` is slow."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    return {name: _plain(getattr(value, name)) for name in _names(type(value))}


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def from_json(value: Mapping[str, Any]) -> Message:
    """The message that `to_json` wrote.

    Raises:
        InternalError: not a message of this version.
    """
    fields = dict(value)
    kind = _KINDS.get(fields.pop("message", ""))
    if kind is None:
        raise InternalError(f"not a message: {sorted(value)}")
    if isinstance(fields.get("unit"), Mapping):
        fields["unit"] = Unit(**fields["unit"])
    if kind in (Launch, WorkerLost):
        fields["fellows"] = tuple(Unit(**unit) for unit in fields.get("fellows", ()))
    if kind is Launch and fields.get("reading") is not None:
        fields["reading"] = _reading(**fields["reading"])
    if kind is Pilot:
        fields["fellows"] = tuple(fields.get("fellows", ()))
    return kind(**fields)


def _reading(anew: bool, drops: Sequence[tuple[Kind, int]], stays: bool) -> Reading:
    return Reading(anew, tuple((split, index) for split, index in drops), stays)


def encode(message: Message) -> bytes:
    """The message as one line of JSON."""
    return json.dumps(to_json(message)).encode()


def decode(line: bytes | str) -> Message:
    """The message in one line of JSON."""
    return from_json(json.loads(line))
