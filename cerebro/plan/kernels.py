"""How steps are computed where that decides bits: what kernels are called in a launch and in the log.

The reference kernel has no name. All others may give other bits, so that only `exact=False` allows them; what the log
says of a unit is enough to compute it again: the bits of a stacked pass depend on who was in it.
"""

from collections.abc import Sequence

CHANNELS_LAST = "channels_last"
"""Parameters of four dimensions, and with them what 2-D convolutions compute, lie with the channels last."""
STACKED = "stacked"
"""The models of a pass are computed by kernels that take all of them at once."""


def stacked_with(models: Sequence[str]) -> str:
    """What the log says of a unit in a stacked pass of `models`, in order."""
    return " ".join((STACKED, *models))


def models_stacked(kernel: str) -> tuple[str, ...]:
    """The models of the stacked pass that a unit was made in; none if it was made alone."""
    name, *models = kernel.split() or [""]
    return tuple(models) if name == STACKED else ()
