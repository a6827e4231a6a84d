"""Keyed random streams: every random draw in Cerebro is a pure function of a readable key.

A key is a tuple such as `(seed, "rows", repeat, epoch, shard)`. SHAKE-256 turns it into as many bits as a
generator needs, so that no two keys share a stream (a 32-bit seed collides: 1.2 % at 10,000 units) and
nothing random has to be carried from one unit to the next.
"""

import hashlib
from typing import TYPE_CHECKING

from cerebro.ids import canonical_json

if TYPE_CHECKING:
    import numpy as np

SCHEME = "cerebro-streams-1"
"""Version of the mapping from keys to bits; part of every lineage."""

Key = tuple[int | str, ...]


def stream_bytes(key: Key, count: int) -> bytes:
    """The first `count` bytes of the stream of `key`."""
    return hashlib.shake_256(canonical_json([SCHEME, *key]).encode()).digest(count)


def generator(key: Key) -> "np.random.RandomState":
    """A NumPy generator on the stream of `key`.

    `RandomState` rather than `Generator`: NumPy promises that its stream never changes (NEP 19).
    """
    import numpy as np

    return np.random.RandomState(np.frombuffer(stream_bytes(key, 64), dtype="<u4"))


def permutation(count: int, key: Key) -> "np.ndarray":
    """A permutation of `range(count)` as int64, the same on every machine and version."""
    return generator(key).permutation(count)
