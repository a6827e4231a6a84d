"""Parameters and buffers of all members: views into the rows in which their states lie, so that nothing is copied."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.strides import in_rows, part, stack, unbind
from cerebro.training.learners import LiveLearner


def bind_together(lives: Sequence[LiveLearner]) -> None:
    """Let the states of these learners lie in the rows of one matrix, in order; does nothing where they do."""
    states = [live.state for live in lives]
    if lives[0].device.type != "cpu":
        _bind_on_device(lives)
        return
    buffers = [buffer for state in states if (buffer := state.buffer()) is not None]
    if len(buffers) < len(states) or _spacing(buffers) is None:
        layouts = [state.layout() for state in states]
        matrix = torch.zeros((len(states), max(layout.size for layout in layouts)), dtype=torch.uint8)
        for state, layout, row in zip(states, layouts, matrix.unbind(0), strict=True):
            state.move(layout, row[: layout.size])


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """A view of tensors that lie in rows as one `[K, ...]`; None where there is no such view of contiguous slices."""
    first, spacing = tensors[0], _spacing(tensors)
    if spacing is None or spacing % first.element_size() or not first.is_contiguous():
        return None
    strides = (spacing // first.element_size(), *first.stride())
    return first.detach().as_strided((len(tensors), *first.shape), strides)


_FEW = 2048
"""Numbers: gradients of so few of each member are copied to where they were parted before sooner than parted anew."""


class ManyParameter(Many):
    """A parameter of each member: as one leaf of the graph that all share, or as the members' own leaves.

    Which of the two is decided by what uses it first, so that all its gradients arrive in one place.
    """

    __slots__ = ("_as_one", "_home", "_leaf", "own")

    _is_param = True  # for the user's `isinstance(value, torch.nn.Parameter)`

    def __init__(self, group: Group, own: Sequence[torch.Tensor]) -> None:
        super().__init__(group, None, tuple(own))
        self.own = tuple(own)
        self._as_one: bool | None = None
        self._leaf: torch.Tensor | None = None
        self._home: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None
        """Where gradients are copied to, as one and member by member."""
        self.rebind()

    def rebind(self) -> None:
        """Look for the members' tensors where they lie now."""
        view = joined(self.own)
        self._leaf = None if view is None else view.requires_grad_(self.own[0].requires_grad)
        if view is None:
            assert not self._as_one, "the members of a group no longer lie in rows"
            self._as_one = False

    @property
    def is_tuple(self) -> bool:
        """Whether the members' own leaves are used."""
        return self._as_one is False

    @property
    def aliases_members(self) -> bool:
        """Both forms are one memory."""
        return True

    def stacked(self) -> torch.Tensor:
        """The leaf that all share."""
        if self._as_one is None:
            self._as_one = True
        if self._as_one:
            assert self._leaf is not None
            return self._leaf
        return stack(self.own)

    def members(self) -> tuple[torch.Tensor, ...]:
        """The members' own leaves."""
        if self._as_one is None:
            self._as_one = False
        if self._as_one:
            assert self._leaf is not None
            return unbind(self._leaf)
        return self.own

    def for_writing(self) -> Many:
        """The members' own, outside of any graph."""
        return Many(self.group, None, self.own)

    def gradients(self, aligned: bool) -> tuple[torch.Tensor | None, ...]:
        """The gradient of each member, contiguous where the parameter is; if `aligned`, where it would lie alone."""
        if not self._as_one:
            return tuple([parameter.grad for parameter in self.own])
        assert self._leaf is not None
        gradient = self._leaf.grad
        if gradient is None:
            return (None,) * self.group.size
        assert gradient.is_contiguous(), "fused optimizers do not look at strides"
        if not aligned and gradient.stride(0) <= _FEW:
            return self._copied(gradient)
        return part(gradient) if aligned else gradient.unbind(0)

    def _copied(self, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same numbers, in the same tensors each time."""
        if self._home is None:
            home = torch.empty_like(gradient)
            self._home = home, home.unbind(0)
        self._home[0].copy_(gradient)
        return self._home[1]

    @property
    def use(self) -> bool | None:
        """Whether the leaf is used that all share; None before anything used one."""
        return self._as_one

    @use.setter
    def use(self, as_one: bool | None) -> None:
        if self._as_one is None and (self._leaf is not None or not as_one):
            self._as_one = as_one

    def taken_gradients(self) -> list[torch.Tensor | None]:
        """What autograd left: one gradient for all, or that of each member."""
        leaves = self.own if self._leaf is None or not self._as_one else (self._leaf,)
        return [leaf.grad for leaf in leaves]

    def give_gradients(self, gradients: Iterator[torch.Tensor | None]) -> None:
        """Take what `taken_gradients` gave, from the front of `gradients`."""
        for leaf in self.own if self._leaf is None or not self._as_one else (self._leaf,):
            leaf.grad = next(gradients)

    def forget_gradients(self) -> None:
        """Begin anew."""
        if self._leaf is not None:
            self._leaf.grad = None
        for parameter in self.own:
            parameter.grad = None

    def _some(self) -> torch.Tensor:
        return self.own[0]

    @property
    def shape(self) -> torch.Size:
        """The shape of each member."""
        return self.own[0].shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers."""
        return self.own[0].dtype

    def strides(self) -> tuple[int, ...]:
        """How each member lies in memory."""
        return self.own[0].stride()


class ManyBuffer(Many):
    """A buffer of each member; both forms are one memory, so that either may be written to."""

    __slots__ = ("own",)

    def __init__(self, group: Group, own: Sequence[torch.Tensor]) -> None:
        super().__init__(group, joined(own), tuple(own))
        self.own = tuple(own)

    def rebind(self) -> None:
        """Look for the members' tensors where they lie now."""
        self._stacked = joined(self.own)

    @property
    def aliases_members(self) -> bool:
        """Both forms are one memory."""
        return True

    def stacked(self) -> torch.Tensor:
        """All members as one; a copy where they do not lie in rows."""
        return stack(self.own) if self._stacked is None else self._stacked

    def members(self) -> tuple[torch.Tensor, ...]:
        """The members' own tensors."""
        return self.own


def _spacing(tensors: Sequence[torch.Tensor]) -> int | None:
    """Bytes from each tensor to the next, where that is the same for all and they lie in one memory."""
    home, start = tensors[0].untyped_storage().data_ptr(), tensors[0].data_ptr()
    if len(tensors) == 1:
        return tensors[0].numel() * tensors[0].element_size()
    spacing = tensors[1].data_ptr() - start
    for number, tensor in enumerate(tensors):
        if tensor.untyped_storage().data_ptr() != home or tensor.data_ptr() != start + number * spacing:
            return None
    return spacing if spacing > 0 else None


def _bind_on_device(lives: Sequence[LiveLearner]) -> None:
    """Where the states are copies in the host's memory, each parameter and buffer is joined by itself.

    Each member's begins at a multiple of 64 bytes, as in a state: libraries choose their kernels by that, too. The
    weights of recurrent layers, which cuDNN wants in one memory, stay there.
    """
    named = [dict(live.state.module_tensors()) for live in lives]
    homes = Counter(tensor.untyped_storage().data_ptr() for tensor in named[0].values())
    for name, first in named[0].items():
        tensors = [tensors[name] for tensors in named]
        is_alone = homes[first.untyped_storage().data_ptr()] == 1
        if is_alone and first.is_contiguous() and joined(tensors) is None:
            for tensor, place in zip(tensors, in_rows(torch.stack([t.detach() for t in tensors])), strict=True):
                tensor.data = place
