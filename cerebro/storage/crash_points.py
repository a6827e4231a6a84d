"""Named places on the way to durability at which a test can let the process die.

With `CEREBRO_CRASH_AT=NAME` in the environment the process that comes to `crash_point(NAME)` is killed as by
`kill -9`; with `NAME:3` the third time it comes there. A process looks at the variable once, at its first crash point.
"""

import functools
import os
import signal
from collections import Counter

VARIABLE = "CEREBRO_CRASH_AT"

NAMES = (
    "create-begun",
    "create-catalog-written",
    "create-renamed",
    "create-ended",
    "checkpoint-begun",
    "checkpoint-written",
    "checkpoint-synced",
    "checkpoint-renamed",
    "checkpoint-ended",
    "record-begun",
    "record-in-transaction",
    "record-committed",
    "record-collected",
)
"""Every crash point, in the order in which a run first comes to them."""


APPENDING = ("append-begun", "append-written", "append-shards-placed", "append-manifest-kept", "append-ended")
"""Those on the way of new rows into a dataset."""


def crash_point(name: str) -> None:
    """Die here, if the environment says so."""
    wanted = _wanted()
    if wanted is None:
        return
    assert name in NAMES or name in APPENDING, name
    place, _, count = wanted.partition(":")
    if place != name:
        return
    visits = _visits()
    visits[name] += 1
    if visits[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def _wanted() -> str | None:
    return os.environ.get(VARIABLE)


@functools.cache
def _visits() -> Counter[str]:
    """How often this process came to each point."""
    return Counter()
