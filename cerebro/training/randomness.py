"""Setting every global generator from a key, so that random state is never part of what hops.

PyTorch's `manual_seed` keeps 32 bits of a seed on the CPU; here the whole state of the Mersenne Twister (624 words) is
filled from the keyed stream instead.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from cerebro.errors import InternalError
from cerebro.streams import Key, stream_bytes

_WORDS = 624
_SELF_TEST = ("self-test",)
_SELF_TEST_DRAWS = (0.5676516890525818, 0.3582855463027954, 0.391377329826355, 0.6755558252334595)


def set_generators(key: Key) -> None:
    """Set the global generators of torch (every device), NumPy and `random` from `key`."""
    words = np.frombuffer(stream_bytes(key, 12 * _WORDS + 8), dtype="<u4")
    twisters = words[: 3 * _WORDS].reshape(3, _WORDS).copy()
    twisters[:, 0] |= 0x80000000  # an all-zero state would stay zero for ever
    torch.default_generator.set_state(_torch_state(twisters[0]))
    np.random.set_state(("MT19937", twisters[1], _WORDS, 0, 0.0))
    random.setstate((3, (*twisters[2].tolist(), _WORDS), None))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(words[3 * _WORDS :].view("<u8")[0] >> 1))


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Puts the global generators back as they were; for work done inside the user's own process."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def check_generators() -> None:
    """Check that torch still lays out its generator's state as `set_generators` fills it.

    Raises:
        InternalError: a known key does not give the known numbers.
    """
    set_generators(_SELF_TEST)
    draws = tuple(torch.rand(4).tolist())
    if draws != _SELF_TEST_DRAWS:
        raise InternalError(
            f"torch {torch.__version__} draws {draws} where {_SELF_TEST_DRAWS} was expected: its generator's state "
            "has another layout; results would not be repeatable. Use a torch version that Cerebro was tested with"
        )


def _torch_state(twister: "np.ndarray") -> torch.Tensor:
    """The bytes of a CPU generator: seed, left, seeded, next, 624 words of 8 bytes, and no cached normal draw."""
    state = np.zeros(5056, dtype=np.uint8)
    state[8:16].view("<i4")[:] = (1, 1)  # left = 1: the next draw starts a new block of the twister
    state[24 : 24 + 8 * _WORDS].view("<u8")[:] = twister
    return torch.from_numpy(state)
