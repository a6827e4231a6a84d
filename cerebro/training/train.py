"""The reference kernels: one model visits one shard, to train on it or to be measured on it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from cerebro.errors import ModelError
from cerebro.training.learners import Batch, LiveLearner
from cerebro.training.metrics import Meter, Metric
from cerebro.training.player import Given, Player, Tapes
from cerebro.training.tape import Tensors

Columns = Mapping[str, "np.ndarray | torch.Tensor"]
"""Columns of a shard: arrays of the dataset, and tensors that were derived of them."""


class DivergedError(ModelError):
    """The loss is not a finite number any more."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What one visit gave."""

    rows: int
    partials: Mapping[str, Any]


@dataclass(frozen=True)
class Loss(Metric):
    """The mean loss over the examples."""

    def measure(self, output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        rows = len(next(iter(batch.values())))
        return {"loss": output.double() * rows, "rows": rows}

    def value(self, totals: Mapping[str, Any]) -> float:
        return totals["loss"] / totals["rows"] if totals["rows"] else math.nan


LOSS = Loss()
_TENSOR = object()
"""In the place of a tensor of a metric."""


def train_visit(
    live: LiveLearner, columns: Columns, row_order: "np.ndarray | None", tapes: Tapes | None = None
) -> Visit:
    """Train on every row of a shard once, batch after batch in `row_order` (None: as they lie).

    With `tapes`, which are of this learner's train visits, batches are played where they can be.

    Raises:
        DivergedError: the loss became NaN or infinite.
        ModelError: the user's loss gave no scalar.
    """
    live.training_mode()
    learner, optimizer, schedule = live.learner, live.state.optimizer, live.state.schedule
    trained = [parameter for parameter in live.module.parameters() if parameter.requires_grad]
    clipped = [p for group in optimizer.param_groups for p in group["params"]] if learner.clip_norm else []

    def forget_gradients() -> None:
        for parameter in trained:
            parameter.grad = None

    def compute(batch: Batch) -> Given:
        forget_gradients()
        loss, output = live.loss_and_output(batch)
        loss.backward()
        tensors, rest = _measured(live, batch, loss.detach(), output)
        return [*(parameter.grad for parameter in trained), *tensors], rest

    meters, rows, player = _meters(live), 0, _player(live, compute, tapes)
    for rows_taken in batches(columns, learner.batch_size, row_order, live.device, learner.drop_last):
        batch = live.viewed(rows_taken)
        rows += _rows(batch)
        tensors, rest = player(batch)
        for parameter, gradient in zip(trained, tensors, strict=False):
            parameter.grad = gradient
        if learner.clip_norm:
            torch.nn.utils.clip_grad_norm_(clipped, learner.clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        _keep(meters, tensors[len(trained) :], rest)
        del tensors
        forget_gradients()  # before the next batch takes memory
    visit = _visit(meters, rows)
    diverged = divergence(visit)
    if diverged is not None:
        raise diverged
    return visit


def valid_visit(live: LiveLearner, columns: Columns, tapes: Tapes | None = None) -> Visit:
    """Measure the model on every row of a shard, in evaluation mode and in the order in which the rows lie.

    Raises:
        ModelError: the user's loss gave no scalar.
    """
    live.module.eval()

    def compute(batch: Batch) -> Given:
        loss, output = live.loss_and_output(batch)
        tensors, rest = _measured(live, batch, loss, output)
        return [*tensors, *tensors_in(output)], rest  # what was put out tells more of whether a tape is right

    meters, rows, player = _meters(live), 0, _player(live, compute, tapes)
    batch_size = live.learner.eval_batch_size or live.learner.batch_size
    with torch.no_grad():
        for rows_taken in batches(columns, batch_size, None, live.device, drop_last=False):
            batch = live.viewed(rows_taken)
            rows += _rows(batch)
            _keep(meters, *player(batch))
    return _visit(meters, rows)


_SMALL_SHARD = 1 << 28
"""Bytes of a shard that a GPU holds as a whole."""


def batches(
    columns: Columns, batch_size: int, row_order: "np.ndarray | None", device: torch.device, drop_last: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of a shard: copied slices of the memory map, or one gather each along `row_order`.

    On a GPU the shard is brought there first, where it is not large: it takes one copy rather than one for each batch.
    """
    tensors = {name: _tensor(column) for name, column in columns.items()}
    count = len(next(iter(tensors.values()))) if tensors else 0
    order = None if row_order is None else torch.from_numpy(row_order)
    if device.type != "cpu" and sum(tensor.nbytes for tensor in tensors.values()) <= _SMALL_SHARD:
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        order = None if order is None else order.to(device)
    end = count - count % batch_size if drop_last else count
    for start in range(0, end, batch_size):
        stop = min(start + batch_size, end)
        if order is None:
            # A copy: what the user's loss does in place must not reach the memory map.
            batch = _Batch({name: tensor[start:stop].clone() for name, tensor in tensors.items()})
        else:
            rows = order[start:stop]
            batch = _Batch({name: tensor.index_select(0, rows) for name, tensor in tensors.items()})
        yield batch if device.type == "cpu" else _Batch({name: t.to(device) for name, t in batch.items()})


class _Batch(dict[str, torch.Tensor]):
    """A batch that says which columns there are, when asked for another."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise ModelError(f"batch[{name!r}]: the dataset has no such column; it has {', '.join(self)}")


def _tensor(column: "np.ndarray | torch.Tensor") -> torch.Tensor:
    """A tensor on the same memory, without torch's warning that it must not be written (it is only read here)."""
    if isinstance(column, torch.Tensor):
        return column
    interface = dict(column.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return torch.from_numpy(np.asarray(_Borrowed(interface, column)))


@dataclass(frozen=True)
class _Borrowed:
    """An array under another description, which keeps the original alive."""

    __array_interface__: dict[str, Any]
    owner: Any


def _meters(live: LiveLearner) -> dict[str, Meter]:
    return {"loss": Meter(LOSS), **{name: Meter(metric) for name, metric in live.metrics.items()}}


def _player(live: LiveLearner, compute: Callable[[Batch], Given], tapes: Tapes | None) -> Callable[[Batch], Given]:
    """How each batch is computed, while the tensors of the module stay where they are."""
    if tapes is None:
        return compute
    tapes.hold_at([tensor.data_ptr() for tensor in (*live.module.parameters(), *live.module.buffers())])
    return Player(compute, tapes)


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors that a value is, or that lists, tuples and dicts hold."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def _measured(live: LiveLearner, batch: Batch, loss: torch.Tensor, output: Any) -> Given:
    """The tensors that the metrics measure, and all else: for each metric its parts, with a mark for a tensor."""
    if live.metrics and output is None:
        raise ModelError("Learner.loss: never called the module, so the metrics have no output: return (loss, output)")
    tensors, rest = list[torch.Tensor](), list[tuple[str, Any]]()
    with torch.no_grad():
        for name, metric in {"loss": LOSS, **live.metrics}.items():
            statistics = metric.measure(loss if metric is LOSS else output, batch)
            if isinstance(statistics, Mapping):
                tensors += (value for value in statistics.values() if isinstance(value, torch.Tensor))
                statistics = {k: _TENSOR if isinstance(v, torch.Tensor) else v for k, v in statistics.items()}
            rest.append((name, statistics))
    return tensors, rest


def _keep(meters: Mapping[str, Meter], tensors: Tensors, rest: Sequence[tuple[str, Any]]) -> None:
    """Let the meters have what `_measured` gave; tensors that come behind that are left."""
    numbers = iter(tensors)
    for name, statistics in rest:
        if isinstance(statistics, Mapping):
            statistics = {part: next(numbers) if value is _TENSOR else value for part, value in statistics.items()}
        meters[name].add(statistics)


def _visit(meters: Mapping[str, Meter], rows: int) -> Visit:
    return Visit(rows, {name: meter.partial() for name, meter in meters.items()})


def divergence(visit: Visit) -> DivergedError | None:
    """The error of a train visit whose loss is not finite."""
    loss = visit.partials["loss"].get("loss", 0.0)
    if math.isfinite(loss):
        return None
    return DivergedError(f"the training loss became {loss}: lower the learning rate, or clip with clip_norm")
