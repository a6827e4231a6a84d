"""Running a user's loss to see how it uses some sub-modules, and comparing what it did."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten

from cerebro.training.identity import identity_of, tensor_bytes


class Reached(BaseException):
    """The rest of a run is of no interest; no user's code catches it by mistake."""


class Run:
    """One run of a loss, with the sub-modules watched: each runs, or gives what `given` says.

    It ends once the sub-module `until` has given its output. `note` makes of each tensor or value that goes into a
    sub-module what is remembered of it: by default a copy, as the loss may change it later.
    """

    def __init__(
        self,
        given: Callable[[str], Any] | None = None,
        until: str | None = None,
        note: Callable[[Any], Any] = lambda leaf: copied(leaf),
    ) -> None:
        self._given, self._until, self._note = given, until, note
        self.calls: list[tuple[str, list[Any]]] = []
        """Each call with what is noted of what it got."""
        self.outputs: dict[str, list[Any]] = {}
        """Copies of what each gave."""
        self.spec: dict[str, TreeSpec] = {}
        self.changed: list[str] = []
        """The sub-modules that changed what they got."""
        self.result: list[Any] = []
        """What the module and the loss gave."""
        self._given_out: list[tuple[str, int, torch.Tensor, int]] = []

    def forward(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """What takes the place of the sub-module's `original` forward."""

        def call(*args: Any, **kwargs: Any) -> Any:
            leaves = tree_flatten((args, kwargs))[0]
            self.calls.append((name, [self._note(leaf) for leaf in leaves]))
            before = [_version(leaf) for leaf in leaves]
            output = original(*args, **kwargs) if self._given is None else self._given(name)
            if before != [_version(leaf) for leaf in leaves]:
                self.changed.append(name)
            found, self.spec[name] = tree_flatten(output)
            if name == self._until:
                self.outputs[name] = found
                raise Reached
            self.outputs[name] = [copied(leaf) for leaf in found]
            self._given_out += [(name, i, leaf, _version(leaf)) for i, leaf in enumerate(found) if is_tensor(leaf)]
            return output

        return call

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Notes what the module gives, until the run ends."""
        hook = module.register_forward_hook(lambda _, __, output: self.result.extend(tree_flatten(output)[0]))
        try:
            yield
        except Reached:
            pass
        finally:
            hook.remove()

    def written(self, name: str) -> frozenset[int]:
        """The places of the tensors in the output of a sub-module that the loss has changed."""
        return frozenset(i for n, i, leaf, before in self._given_out if n == name and _version(leaf) != before)


@contextmanager
def preserved(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Puts back what the tensors hold; gives copies of it."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield before
    finally:
        for tensor, content in zip(tensors, before, strict=True):
            tensor.data.copy_(content)


def shaken(tensors: Sequence[torch.Tensor]) -> None:
    """Change all numbers a little, as training would."""
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.data.mul_(1 + 0.01 * torch.randn_like(tensor.data)).add_(0.01 * torch.randn_like(tensor.data))


def copied(value: Any) -> Any:
    """A tensor of its own; whatever else as it is."""
    return value.clone() if is_tensor(value) else value


def is_tensor(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a value is a tensor, which has rows; all else counts as a constant."""
    return isinstance(value, torch.Tensor)


def made_up(like: torch.Tensor) -> torch.Tensor:
    """One row of numbers that are the same whenever it is asked for such a tensor."""
    shape = (1, *like.shape[1:])
    if not like.is_floating_point():
        return torch.ones(shape, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(like)


def same(ones: Sequence[Any], others: Sequence[Any], finite: bool = False) -> bool:
    """Whether all values are the same bit for bit; with `finite`, numbers that are none are never the same."""
    return len(ones) == len(others) and all(_same(*pair, finite) for pair in zip(ones, others, strict=True))


def close_rows(whole: Any, part: Any, rows: int, few: int) -> bool:
    """Whether `part`, made of the first `few` of all `rows`, says of them what `whole` does."""
    if not isinstance(whole, torch.Tensor) or not isinstance(part, torch.Tensor) or whole.shape == part.shape:
        return _same(whole, part, False)
    if whole.dim() == 0 or (len(whole), len(part), whole.shape[1:]) != (rows, few, part.shape[1:]):
        return False
    if not whole.is_floating_point():
        return torch.equal(whole[:few], part)
    return torch.allclose(whole[:few], part, rtol=1e-3, atol=1e-5, equal_nan=True)


def _same(one: Any, other: Any, finite: bool) -> bool:
    if not is_tensor(one) or not is_tensor(other):
        told = identity_of(one)
        return told is not None and told == identity_of(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if finite and one.is_floating_point() and not bool(one.isfinite().all()):
        return False
    return tensor_bytes(one) == tensor_bytes(other)


def _version(value: Any) -> int:
    """How often a tensor was changed in place."""
    return value._version if is_tensor(value) else 0
