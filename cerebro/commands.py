"""What may be asked of an experiment while it runs, or before its next run: one set of words for people and procedures.

Commands are frozen values that hold JSON and nothing else. They take effect at the end of a unit.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

OptimizerState = Literal["keep", "reset"]


@dataclass(frozen=True, slots=True)
class Add:
    """Train a new model of this config, from its initialisation."""

    config: Mapping[str, Any]
    until: int | None = None
    """The epoch at whose end it pauses; None: the experiment's last one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Train a model no further; it can be resumed."""

    model: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a model that was stopped or is paused."""

    model: str
    until: int | None = None
    """The epoch at whose end it pauses; None: the experiment's last one."""


@dataclass(frozen=True, slots=True)
class Clone:
    """Train a new model whose config is that of `model` but for `changes`."""

    model: str
    changes: Mapping[str, Any]
    warm: bool = True
    """Start from the weights of `model`, at the place in its epochs where they are; otherwise from initialisation."""
    optimizer: OptimizerState = "keep"
    """What a warm clone does with the state of the optimizer, such as momentum; its settings are those of `changes`."""
    at: int | None = None
    """The finished epoch of `model` whose state it starts from; None: its newest durable state."""
    until: int | None = None
    """The epoch at whose end it pauses; None: the experiment's last one."""


@dataclass(frozen=True, slots=True)
class Extend:
    """Train a model for so many epochs more than it was to be, also when it has finished."""

    model: str
    epochs: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Begin nothing more: what runs ends its unit, everything else stays where it is."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write something into the log, of one model or of the whole experiment."""

    text: str
    model: str | None = None


Command = Add | Stop | Resume | Clone | Extend | Finish | Note

COMMANDS: Mapping[str, type[Command]] = {
    kind.__name__.lower(): kind for kind in (Add, Stop, Resume, Clone, Extend, Finish, Note)
}
"""Every command by the name that is typed and logged."""


def command_name(command: Command) -> str:
    """The name that is typed and logged."""
    return type(command).__name__.lower()


def command_body(command: Command) -> dict[str, Any]:
    """The fields of a command as JSON."""
    return asdict(command)
