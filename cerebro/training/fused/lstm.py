"""The stacked rule for small LSTMs: each step of all members at once, and back through the steps by hand.

Torch's kernel takes the whole sequence of one member. Where that is small its time is spent between its products, which
are as many as steps times members; here they are as many as steps. A step's input, the output of the one before, and a
row of ones lie below each other (`[K, in + hidden + 1, rows]`), so that one product makes all gates, biases included,
and on the way back one makes the gradients to both. What of a gradient does not need a later step is computed for all
steps beforehand.

The memory of a sequence, and the views of it that the steps are, are kept for the next batch: taking them would be a
quarter of the time.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.strides import NotFusedError

Tensors = tuple[torch.Tensor, ...]
_FEWEST, _HIGHEST, _LARGEST, _LONGEST = 3, 64, 512, 64
"""Members at least; and at most inputs and hidden units, hidden units of all rows, and steps: where there are more,
torch's kernel was as quick or quicker. A batch of more steps is hardly ever played from a tape.
"""
_MOST_ROOMS = 8
"""Of different sizes: those of some layers, in all batches and in the last one of a visit."""


class _Sizes(NamedTuple):
    """Of the sequence of one member, and how many there are."""

    members: int
    steps: int
    rows: int
    inputs: int
    hidden: int

    def room(self, steps: int, height: int) -> torch.Tensor:
        """Numbers for so many steps: `[steps, K, height, rows]`."""
        return torch.empty(steps, self.members, height, self.rows)


class _Room:
    """The memory of a sequence. Of what has a step more than there are inputs the first is what was before them."""

    def __init__(self, sizes: _Sizes) -> None:
        steps, inputs, hidden = sizes.steps, sizes.inputs, sizes.hidden
        self.sizes = sizes
        self.values = sizes.room(steps + 1, inputs + hidden + 1)
        """A step's input, the output of the one before, and ones."""
        self.values[:, :, -1].fill_(1.0)
        self.to_values = torch.empty_like(self.values)
        self.cells, self.bounded = sizes.room(steps + 1, hidden), sizes.room(steps, hidden)
        """The cells, and their hyperbolic tangents."""
        self.gates = sizes.room(steps, 4 * hidden)
        """Input, forget, cell and output gate, in torch's order."""
        self.to_gates = torch.empty_like(self.gates)
        self.output_to_cell = torch.empty_like(self.bounded)
        """By how much a cell's gradient grows with that of the output."""
        self.to_cell = torch.empty_like(self.bounded[0])
        self.steps, self.steps_back = list(self._steps()), list(self._steps_back())[::-1]

    def _steps(self) -> Iterable[Tensors]:
        """What a step reads and writes, in the order in which `_run` does."""
        let_in, keep, new, let_out = _four(self.gates)
        before, after = self.cells[:-1], self.cells[1:]
        sigmoids = self.gates[:, :, : 2 * self.sizes.hidden]
        return zip(
            self.values[:-1], self.gates, sigmoids, let_in, keep, new, let_out, before, after, self.bounded,
            self.outputs[1:], strict=True,
        )  # fmt: skip

    def _steps_back(self) -> Iterable[Tensors]:
        """The same for `_run_back`, but in the order of the steps."""
        hidden = self.sizes.hidden
        to_three, to_let_out = self.to_gates.split([3 * hidden, hidden], 2)
        return zip(
            self.to_outputs[1:], self.output_to_cell, to_three.unflatten(2, (3, hidden)), to_let_out,
            _four(self.gates)[1], self.to_gates, self.to_values[:-1], strict=True,
        )  # fmt: skip

    @property
    def inputs(self) -> torch.Tensor:
        """`[steps, K, in, rows]`."""
        return self.values[:-1, :, : self.sizes.inputs]

    @property
    def outputs(self) -> torch.Tensor:
        """`[steps + 1, K, hidden, rows]`."""
        return self.values[:, :, self.sizes.inputs : -1]

    @property
    def to_outputs(self) -> torch.Tensor:
        """Their gradients."""
        return self.to_values[:, :, self.sizes.inputs : -1]


_ROOMS = OrderedDict[_Sizes, list[_Room]]()
"""Those that no sequence is in; the sizes that were used last are last."""


def _entered(sizes: _Sizes) -> _Room:
    free = _ROOMS.get(sizes)
    return free.pop() if free else _Room(sizes)


def _leave(room: _Room) -> None:
    _ROOMS.setdefault(room.sizes, []).append(room)
    _ROOMS.move_to_end(room.sizes)
    while len(_ROOMS) > _MOST_ROOMS:
        _ROOMS.popitem(last=False)


def lstm(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`torch.lstm` as `nn.LSTM` calls it, of one direction and without dropout, while it is trained.

    Whether it is computed so depends on the sizes alone, so that a replay computes as the run did. Measuring is left to
    torch's kernel, which is three times as quick where it keeps nothing for a way back.
    """
    if len(args) != 9 or kwargs or not torch.is_grad_enabled():
        return NotImplemented
    value, start, weights, has_biases, layers, dropout, _, is_bidirectional, is_batch_first = args
    per_layer = 4 if has_biases else 2
    if is_bidirectional or dropout > 0 or len(weights) != layers * per_layer or not isinstance(start, tuple):
        return NotImplemented
    if not all(map(_is_plain, (value, *start))) or not all(isinstance(weight, Many) for weight in weights):
        return NotImplemented
    if weights[1].is_tuple or not _is_small(group.size, value.shape, weights[1].shape[1], is_batch_first):
        return NotImplemented
    order = (2, 0, 3, 1) if is_batch_first else (1, 0, 3, 2)
    steps = _of_all(group, value).permute(order)
    states = [_of_all(group, state).transpose(2, 3).unbind(1) for state in start]
    ends = list[tuple[torch.Tensor, torch.Tensor]]()
    for layer, (output, cell) in enumerate(zip(*states, strict=True)):
        parameters = [weight.stacked() for weight in weights[layer * per_layer : (layer + 1) * per_layer]]
        steps, last_output, last_cell = _Lstm.apply(steps, output, cell, *parameters)
        ends.append((last_output, last_cell))
    last = [torch.stack(each, 1).transpose(2, 3) for each in zip(*ends, strict=True)]
    back = (1, 3, 0, 2) if is_batch_first else (1, 0, 3, 2)
    return tuple(Many(group, found) for found in (steps.permute(back), *last))


def _is_plain(value: Any) -> bool:
    is_known = value.device.type == "cpu" and value.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_known and len(value.shape) == 3 and (isinstance(value, Many) or not value.requires_grad)


def _is_small(members: int, shape: Sequence[int], hidden: int, is_batch_first: bool) -> bool:
    (rows, steps), inputs = shape[:2] if is_batch_first else shape[1::-1], shape[2]
    is_low = inputs + hidden <= _HIGHEST and rows * hidden <= _LARGEST
    return members >= _FEWEST and is_low and 0 < steps <= _LONGEST and rows * inputs > 0


def _of_all(group: Group, value: Any) -> torch.Tensor:
    return value.stacked() if isinstance(value, Many) else value.expand(group.size, *value.shape)


class _Lstm(torch.autograd.Function):
    """One layer, by the formulas of `nn.LSTM`.

    From `value: [steps, K, in, rows]`, the output and the cell `[K, hidden, rows]` before the first step, the weights
    `[K, 4 * hidden, in]` and `[K, 4 * hidden, hidden]`, and two biases `[K, 4 * hidden]` or none, to the outputs
    `[steps, K, hidden, rows]`, the last output and the last cell.
    """

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, start: torch.Tensor, cell: torch.Tensor, *parameters: torch.Tensor
    ) -> Any:
        steps, members, inputs, rows = value.shape
        room = _entered(_Sizes(members, steps, rows, inputs, start.shape[1]))
        weights = _joined(*parameters)
        room.inputs.copy_(value)
        room.outputs[0].copy_(start)
        room.cells[0].copy_(cell)
        _run(room, weights)
        ctx.room, ctx.has_biases, ctx.strides = room, len(parameters) > 2, value.stride()
        ctx.save_for_backward(weights)
        ctx.set_materialize_grads(False)
        return room.outputs[1:].clone(), room.outputs[-1].clone(), room.cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        if torch.is_grad_enabled() or ctx.room is None:
            raise NotFusedError("the gradients of an LSTM are differentiated, or computed twice")
        room, (weights,) = ctx.room, ctx.saved_tensors
        ctx.room = None
        _run_back(room, weights, *gradients)
        inputs, needs = room.sizes.inputs, ctx.needs_input_grad
        found = (
            _laid_out(room.to_values[:-1, :, :inputs], ctx.strides) if needs[0] else None,
            room.to_outputs[0].clone() if needs[1] else None,
            room.to_cell.clone() if needs[2] else None,
            *_to_parameters(room, ctx.has_biases),
        )
        _leave(room)
        return found


def _laid_out(gradient: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """A copy that lies as the value does: what computes with both is quicker so."""
    return torch.empty_strided(gradient.shape, strides).copy_(gradient)


def _joined(
    to_input: torch.Tensor, to_state: torch.Tensor, bias: torch.Tensor | None = None, other: torch.Tensor | None = None
) -> torch.Tensor:
    """`[K, 4 * hidden, in + hidden + 1]`: the biases are what ones are multiplied by."""
    total = to_state.new_zeros(to_state.shape[:2]) if bias is None or other is None else bias + other
    return torch.cat([to_input, to_state, total.unsqueeze(2)], 2)


def _run(room: _Room, weights: torch.Tensor) -> None:
    """All steps, from what the room holds from before them."""
    for value, gates, sigmoids, let_in, keep, new, let_out, cell, next_cell, bounded, output in room.steps:
        torch.bmm(weights, value, out=gates)
        sigmoids.sigmoid_()
        new.tanh_()
        let_out.sigmoid_()
        torch.mul(keep, cell, out=next_cell)
        next_cell.addcmul_(let_in, new)
        torch.tanh(next_cell, out=bounded)
        torch.mul(let_out, bounded, out=output)


def _run_back(
    room: _Room,
    weights: torch.Tensor,
    to_outputs: torch.Tensor | None,
    to_last: torch.Tensor | None,
    to_cell: torch.Tensor | None,
) -> None:
    """Leaves in the room the gradients to the gates before they were bounded, to the values, and to the first cell."""
    _prepare(room)
    _begin_back(room, to_outputs, to_last, to_cell)
    columns, gradient = weights.transpose(1, 2), room.to_cell
    spread = gradient.unsqueeze(1)
    for to_output, grows, to_three, to_let_out, kept, to_gates, to_value in room.steps_back:
        gradient.addcmul_(to_output, grows)
        to_three.mul_(spread)
        to_let_out.mul_(to_output)
        gradient.mul_(kept)
        to_value.baddbmm_(columns, to_gates)


def _prepare(room: _Room) -> None:
    """By how much each gate's gradient grows with that of the cell, or of the output for the output gate."""
    (let_in, _, new, let_out), (to_in, to_keep, to_new, to_out) = _four(room.gates), _four(room.to_gates)
    torch.addcmul(room.gates, room.gates, room.gates, value=-1, out=room.to_gates)  # of the sigmoid
    to_in.mul_(new)
    to_keep.mul_(room.cells[:-1])
    to_out.mul_(room.bounded)
    torch.addcmul(let_in, let_in * new, new, value=-1, out=to_new)
    torch.addcmul(let_out, let_out * room.bounded, room.bounded, value=-1, out=room.output_to_cell)


def _begin_back(
    room: _Room, to_outputs: torch.Tensor | None, to_last: torch.Tensor | None, to_cell: torch.Tensor | None
) -> None:
    room.to_values.zero_()
    if to_outputs is not None:
        room.to_outputs[1:].copy_(to_outputs)
    if to_last is not None:
        room.to_outputs[-1].add_(to_last)
    if to_cell is None:
        room.to_cell.zero_()
    else:
        room.to_cell.copy_(to_cell)


def _to_parameters(room: _Room, has_biases: bool) -> list[torch.Tensor]:
    """As the parameters are, contiguous, for fused optimizers do not look at strides."""
    to_gates = room.to_gates.permute(1, 2, 0, 3).flatten(2)
    found = torch.bmm(to_gates, room.values[:-1].permute(1, 0, 3, 2).flatten(1, 2))
    *to_weights, to_bias = found.split([room.sizes.inputs, room.sizes.hidden, 1], 2)
    both = [to_bias.squeeze(2)] * 2 if has_biases else []
    return [gradient.clone(memory_format=torch.contiguous_format) for gradient in (*to_weights, *both)]


def _four(gates: torch.Tensor) -> Tensors:
    return gates.chunk(4, 2)
