"""Random numbers on which two ways of computing are compared: all members at once, and each alone.

Whether they have the same bits depends on the shapes, for a library chooses its kernels by them. Kernels that add in
different orders agree on most sums by chance, and may differ in the last columns only: so there are many numbers. And
they differ in the sign of zeros: a sum of products that are all -0.0 is one of 0.0 for kernels that start from zero.
So in some trials nearly all numbers are zeros whose signs are made such that their products have one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, TypeVar

import torch

from cerebro.training.fused.many import Group
from cerebro.training.tape import equal_bits

Case = TypeVar("Case")
Found = TypeVar("Found", bound=Any)

_VISITS = 32
"""A case that is met in one batch of a visit only is tried after so many visits: trials cost some dozens of batches."""
NUMBERS, _ZEROS, _MOST = 2500, 60, 60
_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Of weights and of gradients, member by member, among zeros."""
_SHARE = 0.1
"""Of numbers that are not zero there."""


Told = Mapping[str, Sequence[bool] | None]
"""What trials have shown, by case, as JSON."""


class Findings(Generic[Case, Found]):
    """What trials have shown of each case, in this process or in another one on this machine."""

    def __init__(self, tried: Callable[[Case], Found | None], found: Callable[..., Found]) -> None:
        """By `tried`, what of a case is better done at once: all of that, in order, makes a `found`."""
        self._tried, self._made = tried, found
        self._found = dict[Case, Found | None]()
        self._heard = dict[str, Sequence[bool] | None]()
        self._visits = Counter[Case]()

    def of(self, group: Group, case: Case) -> Found | None:
        """What trials show; None while a case is not met often enough to be tried."""
        if case not in self._found:
            if str(case) in self._heard:
                heard = self._heard[str(case)]
                self._found[case] = None if heard is None else self._made(*heard)
            elif self._is_frequent(group, case):
                self._found[case] = self._tried(case)
            else:
                return None
        return self._found[case]

    def told(self) -> Told:
        """What was found in this process, for others."""
        found = ((str(case), found) for case, found in self._found.items())
        return {case: None if found is None else astuple(found) for case, found in found}

    def hear(self, told: Told) -> None:
        """Take what another process has found for true."""
        self._heard |= told

    def _is_frequent(self, group: Group, case: Case) -> bool:
        met_in = group.met.setdefault(case, group.batch)
        if met_in == group.batch:
            self._visits[case] += 1
        return met_in < group.batch or self._visits[case] > _VISITS


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for so many members; or mostly zeros, whose signs tell kernels apart."""

    members: int
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator
    are_zeros: bool = False

    def weight(self, *shape: int) -> torch.Tensor:
        """`[K, *shape]`."""
        return self._drawn((self.members, *shape), 0)

    def gradient(self, *shape: int) -> torch.Tensor:
        """`[K, *shape]`."""
        return self._drawn((self.members, *shape), 1)

    def input(self, is_shared: bool, *shape: int) -> torch.Tensor:
        """One value for each member, or one for all: `[K or 1, *shape]`."""
        return self._drawn((1 if is_shared else self.members, *shape), None)

    def _drawn(self, shape: tuple[int, ...], kind: int | None) -> torch.Tensor:
        numbers = torch.randn(shape, generator=self.generator, device=self.device)
        if self.are_zeros:
            numbers = numbers.abs_() * (torch.rand(shape, generator=self.generator, device=self.device) < _SHARE)
            if kind is not None:
                signs = _SIGNS[:, kind].to(self.device).repeat(-(-shape[0] // len(_SIGNS)))[: shape[0]]
                numbers *= signs.view(-1, *[1] * (len(shape) - 1))
        return numbers.to(self.dtype)


def draws(
    members: int, dtype: torch.dtype, device: torch.device, numbers: int, enough: int = NUMBERS, least: int = 1
) -> Iterator[Draws]:
    """What the trials begin with, of which each gives so many `numbers` to compare of every kind."""
    generator = torch.Generator(device).manual_seed(members)
    for are_zeros, trials in ((True, count(_ZEROS, numbers)), (False, max(least, count(enough, numbers)))):
        for _ in range(trials):
            yield Draws(members, dtype, device, generator, are_zeros)


def count(enough: int, numbers: int) -> int:
    """How many trials it takes to have enough to compare."""
    return min(-(-enough // numbers), _MOST)


def are_same(ones: Sequence[torch.Tensor | None], others: Sequence[torch.Tensor | None]) -> list[bool]:
    """Which tensors have the same bits as their counterparts, or none."""
    pairs = zip(ones, others, strict=True)
    return [one is None or other is None or equal_bits(one, other) for one, other in pairs]


def laid_out(value: torch.Tensor, strides: Sequence[int], offset_bytes: int) -> torch.Tensor:
    """The same numbers with these strides, so many bytes behind a multiple of 64."""
    offset = offset_bytes // value.element_size()
    span = 1 + sum((length - 1) * stride for length, stride in zip(value.shape, strides, strict=True))
    place = value.new_empty(offset + span).as_strided(value.shape, strides, offset)
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    place[once] = value[once]
    return place


def offset_of(value: torch.Tensor) -> int:
    """Bytes by which a tensor lies behind a multiple of 64; the members of a tuple lie alike."""
    return value.data_ptr() % 64
