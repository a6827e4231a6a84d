"""Running a user's loss to see how it uses some sub-modules, and comparing what it did."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from cerebro.training.identity import tensor_bytes


class Reached(BaseException):
    """The rest of a run is of no interest; no user's code catches it by mistake."""


class Run:
    """One run of a loss, with the sub-modules watched: each runs, or gives what is `given` for it.

    It ends once the sub-module `until` has given its output.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, until: str | None = None) -> None:
        self._given, self._until = given, until
        self.calls: list[tuple[str, list[Any]]] = []
        """Each call with what it got."""
        self.outputs: dict[str, Any] = {}
        self.changed: list[str] = []
        """The sub-modules that changed what they got."""
        self.result: list[Any] = []
        """What the module and the loss gave."""

    def forward(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """What takes the place of the sub-module's `original` forward."""

        def call(*args: Any, **kwargs: Any) -> Any:
            leaves = tree_flatten((args, kwargs))[0]
            if self._given is not None:
                output = self._given[name]
            else:
                before = [leaf.clone() if is_tensor(leaf) else leaf for leaf in leaves]
                output = original(*args, **kwargs)
                if not same(before, leaves):
                    self.changed.append(name)
                leaves = before
            self.calls.append((name, leaves))
            self.outputs[name] = output
            if name == self._until:
                raise Reached
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
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and repr(one) == repr(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if finite and one.is_floating_point() and not bool(one.isfinite().all()):
        return False
    return tensor_bytes(one) == tensor_bytes(other)
