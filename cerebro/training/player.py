"""Computing the batches of a visit: at first as the code says, then by playing what it was seen to do.

A model's code is taken to be a function of its module and the batch. That is not believed but looked at: for batches of
one shape a tape is made only where two batches gave one and the same tape, and playing it gave the bits that the code
gave; and now and then a batch is computed both ways again. The others are played if that was quicker: playing saves
the Python between the kernels, which is much of a small net and nothing of a large one.
"""

import functools
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cerebro.training.learners import Batch
from cerebro.training.tape import Tape, Tensors, equal_bits, record, same_bits, same_values

Given = tuple[Tensors, Any]
"""What a batch gave: tensors, and what is not one, which has to be the same for all batches of one shape."""
Shapes = tuple[Any, ...]
"""All of a batch that its kernels may depend on, but for the numbers."""


_MOST_TAPES, _PATIENCE, _PATIENCE_WITH_ODD = 256, 16, 32
_BETWEEN, _LONGEST_BETWEEN = 64, 1024
"""So many batches are played, or computed where that is quicker, before one is computed both ways again; twice as many
each time that nothing has changed.
"""
_PROVEN = 500
"""So many numbers must have been the same both ways before batches of a shape are played: a sum of losses may be equal
by chance where each loss is not.
"""
_QUICKER = 0.95
"""Playing is to take less than this of what computing takes."""
_GIVEN_UP = 3
"""When playing was so often in a row not quicker it is not tried again."""


@dataclass
class Tapes:
    """The tapes of one computation, by the shapes of the batch; they hold while its tensors stay at `places`."""

    longest: float
    """Seconds: of a batch that takes longer the Python between the kernels is little, and it is not noted."""
    patience: int = 1
    """So many batches of one shape are computed before one is timed, and noted: it costs some dozens of them."""
    patience_with_odd: int = 1
    """The same for a shape of which a visit has one batch, its last."""
    places: Any = None
    memo: Any = None
    """What the computation wants to know of the visit before, while its tensors stay."""
    kept: dict[Shapes, "_Kept | str"] = field(default_factory=dict)
    """A line that says why there is no tape, where there can be none."""
    begun: dict[Shapes, "_Kept | int"] = field(default_factory=dict)
    """How many batches were computed without a tape; then the first tape of two."""
    proven: Counter[Shapes] = field(default_factory=Counter[Shapes])
    """How many numbers were the same both ways."""
    are_quicker: bool = False
    """Whether playing was quicker than computing, when it was looked at last."""
    times_slower: int = 0
    """How often in a row it was not."""
    unchecked: int = _BETWEEN
    """Batches since a batch was computed both ways."""
    between: int = _BETWEEN
    """How many are let pass before the next one is."""

    @property
    def are_settled(self) -> bool:
        """Whether it is known of each shape that was met how its batches are computed."""
        made = {shapes for shapes, kept in self.kept.items() if isinstance(kept, str) or self.proven[shapes] >= _PROVEN}
        return bool(self.begun) and self.begun.keys() <= made

    def see_time(self, both: "_Both") -> None:
        """Note which way was quicker for a batch that was just computed both ways."""
        self.are_quicker, self.unchecked = both.is_quicker, 0
        self.times_slower = 0 if both.is_quicker else self.times_slower + 1

    def hold_at(self, places: Any) -> None:
        """Forget all tapes if the tensors lie elsewhere by now."""
        if places != self.places:
            self.places, self.memo = places, None
            self.are_quicker, self.times_slower, self.unchecked, self.between = False, 0, _BETWEEN, _BETWEEN
            self.kept.clear()
            self.proven.clear()
            self.begun.clear()


_LONG, _PASS = 1500, 4
"""A model's batch that takes as long as so many calls is long, and one of a pass in which that takes so many models."""


def tapes_of(models: int, trains: bool, patience: int = 2, patience_with_odd: int = 2) -> Tapes:
    """Tapes for what so many models compute: in validation a batch has a third of the kernels, and less to save.

    In the second batch a pass tries out how to compute it: that is not to be the one that is timed.
    """
    longest = call_seconds() * min(models, _PASS) * (_LONG if trains else _LONG / 2)
    return Tapes(longest, patience, patience_with_odd)


@functools.cache
def call_seconds() -> float:
    """What calling a kernel takes that has nothing to do: there are slow machines, and busy ones."""
    number, seconds = torch.ones(1), float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(10):
            torch.add(number, number)
        seconds = min(seconds, time.perf_counter() - begun)
    return seconds / 10


class Shelf:
    """The tapes of many computations, each of which belongs to some models."""

    def __init__(self) -> None:
        self._tapes: OrderedDict[tuple[tuple[str, ...], str], Tapes] = OrderedDict()

    def of(self, models: Sequence[str], computation: str, trains: bool) -> Tapes:
        """The tapes of what these models compute together: that they train, or are measured."""
        key = tuple(models), computation
        tapes = self._tapes.setdefault(key, tapes_of(len(models), trains, _PATIENCE, _PATIENCE_WITH_ODD))
        self._tapes.move_to_end(key)
        if len(self._tapes) > _MOST_TAPES:
            self._tapes.popitem(last=False)
        return tapes

    def drop(self, model: str) -> None:
        """Let go of what belongs to a model, and of the memory where its tensors lay."""
        for key in [key for key in self._tapes if model in key[0]]:
            del self._tapes[key]


@dataclass(frozen=True)
class _Kept:
    tape: Tape
    rest: Any


class Player:
    """Computes what each batch of a visit gives."""

    def __init__(self, compute: Callable[[Batch], Given], tapes: Tapes) -> None:
        self._compute, self._tapes = compute, tapes
        self._met = set[Shapes]()

    def __call__(self, batch: Batch) -> Given:
        """What `compute` gives for a batch, whichever way."""
        shapes, tapes = _shapes(batch), self._tapes
        kept = tapes.kept.get(shapes)
        if kept is None:
            return self._made(batch, shapes)
        if isinstance(kept, str):
            return self._compute(batch)
        if tapes.unchecked >= tapes.between or tapes.proven[shapes] < _PROVEN:
            return self._checked(batch, shapes, kept)
        tapes.unchecked += 1
        return (kept.tape.play(batch.values()), kept.rest) if tapes.are_quicker else self._compute(batch)

    def _checked(self, batch: Batch, shapes: Shapes, kept: "_Kept") -> Given:
        """What the code gives for a batch; playing is looked at beside it."""
        tapes, both = self._tapes, _both_ways(lambda: self._compute(batch), kept, batch)
        tapes.between = min(2 * tapes.between, _LONGEST_BETWEEN) if both.is_quicker == tapes.are_quicker else _BETWEEN
        tapes.see_time(both)
        tapes.proven[shapes] += both.numbers
        if not both.are_equal:
            tapes.kept[shapes] = "playing did not give what the code gave"
        elif tapes.times_slower >= _GIVEN_UP:
            tapes.kept = dict.fromkeys(tapes.kept, "playing is not quicker")
        return both.given

    def _made(self, batch: Batch, shapes: Shapes) -> Given:
        """What the code gives for a batch; after some of one shape one is timed, and the next two are noted."""
        begun, kept = self._tapes.begun, self._tapes.kept
        patience = self._tapes.patience if shapes in self._met else self._tapes.patience_with_odd
        self._met.add(shapes)
        earlier = begun.setdefault(shapes, 0)
        if isinstance(earlier, int) and earlier <= patience:
            begun[shapes], start = earlier + 1, time.perf_counter()
            given = self._compute(batch)
            if earlier >= self._tapes.patience and time.perf_counter() - start > self._tapes.longest:
                kept[shapes] = "a batch takes long, so that little of it is Python"
            return given
        found = self._noted(batch)
        if isinstance(found, str):
            kept[shapes] = found
        elif isinstance(earlier, int):
            begun[shapes] = found
        else:
            both = _both_ways(lambda: self._compute(batch), earlier, batch)
            are_alike = found.tape.is_like(earlier.tape) and same_values(found.rest, earlier.rest)
            if not kept:  # of a last batch that is smaller than the others its time says little
                self._tapes.see_time(both)
            kept[shapes] = earlier if both.are_equal and are_alike else "two batches did not run the same kernels"
            self._tapes.proven[shapes] = both.numbers
            return both.given
        return self._compute(batch)

    def _noted(self, batch: Batch) -> "_Kept | str":
        """What `compute` does with a copy of a batch."""
        copy, rest = type(batch)({name: tensor.clone() for name, tensor in batch.items()}), list[Any]()

        def tensors() -> Tensors:
            given, other = self._compute(copy)
            rest.append(other)
            return given

        tape = record(tensors, tuple(copy.values()))
        return tape if isinstance(tape, str) else _Kept(tape, rest[0])


@dataclass(frozen=True, slots=True)
class _Both:
    """A batch that was computed, and played."""

    given: Given
    are_equal: bool
    """Whether playing gave the same, and left the same behind."""
    numbers: int
    """How many of them are fractions."""
    is_quicker: bool
    """Whether playing was quicker."""


def _both_ways(compute: Callable[[], Given], kept: _Kept, batch: Batch) -> _Both:
    kept.tape.prepare()
    lasting, noise = kept.tape.written, torch.get_rng_state()
    before = [tensor.clone() for tensor in lasting]
    inputs = [tensor.clone() for tensor in batch.values()]
    begun = time.perf_counter()
    given = compute()
    computed = time.perf_counter()
    after, noise_after = [tensor.clone() for tensor in lasting], torch.get_rng_state()
    _restore(lasting, before, noise)
    restored = time.perf_counter()
    try:
        played = kept.tape.play(inputs)
    except RuntimeError:  # a kernel that cannot be called from here, as it gives or takes what Python does not see
        played = None
    ended = time.perf_counter()
    are_equal = (
        played is not None
        and same_values(given[1], kept.rest)
        and all(map(_is_same, played, given[0]))
        and all(map(equal_bits, lasting, after))
        and torch.equal(torch.get_rng_state(), noise_after)
    )
    _restore(lasting, after, noise_after)
    numbers = sum(t.numel() for t in (*given[0], *lasting) if t is not None and t.is_floating_point())
    return _Both(given, are_equal, numbers, ended - restored < _QUICKER * (computed - begun))


@torch.no_grad()
def _restore(lasting: list[torch.Tensor], numbers: list[torch.Tensor], noise: torch.Tensor) -> None:
    for tensor, value in zip(lasting, numbers, strict=True):
        tensor.copy_(value)
    torch.set_rng_state(noise)


def _is_same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else same_bits(one, other)


def _shapes(batch: Mapping[str, torch.Tensor]) -> Shapes:
    return tuple((name, t.shape, t.stride(), t.dtype, t.data_ptr() % 64) for name, t in batch.items())
