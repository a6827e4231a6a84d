"""Metrics that add up: what each visit measures is merged exactly, so that placement changes nothing.

A visit turns into a *partial*: JSON that merges with the partials of the other visits. The unit that ends a split
merges them all and computes the values. Sums of floats are exact (`math.fsum`), counts are integers.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cerebro.errors import ModelError

Statistics = Mapping[str, Any]


class Metric(ABC):
    """A metric made of sums over examples: subclass it for one of your own.

    Duties: `measure` gives sums over the examples of one batch (never means), each a tensor or a number;
    `value` turns the sums over all examples into the metric.
    """

    @abstractmethod
    def measure(self, output: Any, batch: Mapping[str, torch.Tensor]) -> Statistics:
        """Sums over the examples of one batch."""

    @abstractmethod
    def value(self, totals: Mapping[str, Any]) -> float:
        """The metric, from the sums over all examples (numbers, or nested lists of them)."""

    # The two verbs of torchmetrics, so that both kinds are told from anything else in the same way.
    def update(self, output: Any, batch: Mapping[str, torch.Tensor]) -> Statistics:
        """As `measure`."""
        return self.measure(output, batch)

    def compute(self, totals: Mapping[str, Any]) -> float:
        """As `value`."""
        return self.value(totals)


@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of examples whose predicted class is the label."""

    label: str

    def measure(self, output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Statistics:
        target = batch[self.label]
        correct = predicted_class(output).reshape(target.shape) == target
        return {"correct": correct.sum(), "rows": target.numel()}

    def value(self, totals: Mapping[str, Any]) -> float:
        return _ratio(totals["correct"], totals["rows"])


@dataclass(frozen=True)
class BalancedAccuracy(Metric):
    """The mean over the classes of the share of their examples that are predicted right."""

    label: str
    classes: int

    def measure(self, output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Statistics:
        target = batch[self.label].reshape(-1).long()
        hits = target[predicted_class(output).reshape(-1) == target]
        return {
            "correct": torch.bincount(hits, minlength=self.classes),
            "rows": torch.bincount(target, minlength=self.classes),
        }

    def value(self, totals: Mapping[str, Any]) -> float:
        shares = [_ratio(c, n) for c, n in zip(totals["correct"], totals["rows"], strict=True) if n]
        return math.fsum(shares) / len(shares) if shares else math.nan


@dataclass(frozen=True)
class MeanError(Metric):
    """The mean over the examples of |error| to a power: 1 gives the MAE, 2 the MSE."""

    label: str
    power: int

    def measure(self, output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Statistics:
        target = batch[self.label]
        errors = (output.reshape(target.shape).double() - target.double()).abs().pow(self.power)
        return {"error": errors.sum(), "rows": target.numel()}

    def value(self, totals: Mapping[str, Any]) -> float:
        return _ratio(totals["error"], totals["rows"])


@dataclass(frozen=True)
class TorchMetric(Metric):
    """A torchmetrics object, read through its own mergeable state."""

    metric: Any
    label: str

    _MERGES = ("dim_zero_sum", "dim_zero_cat", "dim_zero_max", "dim_zero_min")

    def measure(self, output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Statistics:
        self.metric.reset()
        self.metric.update(output, batch[self.label])
        return {f"{name}:{self._merge(name)}": _joined(getattr(self.metric, name)) for name in self._states()}

    def value(self, totals: Mapping[str, Any]) -> float:
        self.metric.reset()
        for name, default in self._states().items():
            total = totals[f"{name}:{self._merge(name)}"]
            dtype = default.dtype if isinstance(default, torch.Tensor) else None
            tensor = torch.tensor(total, dtype=dtype)
            setattr(self.metric, name, tensor if dtype else [tensor])
        self.metric._update_count = 1  # it was updated, in other processes: no warning is due
        return float(self.metric.compute())

    def _states(self) -> Mapping[str, Any]:
        return self.metric._defaults

    def _merge(self, name: str) -> str:
        merge = getattr(self.metric._reductions[name], "__name__", "none")
        if merge not in self._MERGES:
            raise ModelError(
                f"the state {name!r} of {type(self.metric).__name__} does not merge exactly ({merge}); "
                "use a metric whose states are sums, counts, extremes or lists"
            )
        return merge.removeprefix("dim_zero_")


def accuracy(label: str) -> Accuracy:
    """The share of examples predicted right.

    The output is `[rows, classes, ...]` scores, or `[rows]` / `[rows, 1]` logits of two classes.
    """
    return Accuracy(label)


def balanced_accuracy(label: str, classes: int) -> BalancedAccuracy:
    """The mean of the recalls of the classes; output as for `accuracy`."""
    return BalancedAccuracy(label, classes)


def mae(label: str) -> MeanError:
    """The mean absolute error of an output of the label's shape."""
    return MeanError(label, 1)


def mse(label: str) -> MeanError:
    """The mean squared error of an output of the label's shape."""
    return MeanError(label, 2)


def torchmetric(metric: Any, label: str) -> TorchMetric:
    """A torchmetrics object whose target is the column `label`."""
    return TorchMetric(metric, label)


def predicted_class(output: torch.Tensor) -> torch.Tensor:
    """The class that a batch of scores or logits predicts."""
    if output.dim() == 1 or output.shape[1] == 1:
        return (output > 0).long()
    return output.argmax(dim=1)


class Meter:
    """Gathers what one metric measures over the batches of one visit."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._batches: dict[str, list[Any]] = {}

    def add(self, statistics: Statistics) -> None:
        """Take in what one batch measured.

        Raises:
            ModelError: the metric gave no mapping.
        """
        if not isinstance(statistics, Mapping):
            raise ModelError(
                f"{_name(self.metric)}.measure: gave {_kind(statistics)}; it must give a mapping of sums over the batch"
            )
        for name, value in statistics.items():
            self._batches.setdefault(name, []).append(value)

    def partial(self) -> dict[str, Any]:
        """All that was measured, as JSON.

        Raises:
            ModelError: the metric measured something else than numbers.
        """
        return {name: merged(name, [self._plain(name, v) for v in values]) for name, values in self._batches.items()}

    def _plain(self, name: str, value: Any) -> Any:
        plain = value.tolist() if hasattr(value, "tolist") else value
        if not _is_numbers(plain):
            raise ModelError(
                f"{_name(self.metric)}.measure: {name!r} is {_kind(value)}; only numbers and tensors of them add up"
            )
        return plain


def merged_value(metric: Metric, partials: Sequence[Mapping[str, Any]]) -> float:
    """The metric over several visits, from their partials in order.

    Raises:
        ModelError: the metric is not a number.
    """
    measured = [partial for partial in partials if partial]  # a visit without a full batch measured nothing
    if not measured:
        return math.nan
    value = metric.value({name: merged(name, [partial[name] for partial in measured]) for name in measured[0]})
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise ModelError(f"{_name(metric)}.value: gave {_kind(value)}; a metric is one number")
    return float(value)


def merged(name: str, values: list[Any]) -> Any:
    """Values of one statistic merged as its name says: `NAME:max`, `NAME:min`, `NAME:cat`, else the sum."""
    merge = name.rpartition(":")[2]
    if merge == "cat":
        return [item for value in values for item in value]
    return _elementwise({"max": max, "min": min}.get(merge, _exact_sum), values)


def _elementwise(merge: Any, values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [_elementwise(merge, list(column)) for column in zip(*values, strict=True)]
    return merge(values)


def _exact_sum(values: list[Any]) -> Any:
    if all(isinstance(value, int) for value in values):
        return sum(values)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # too large, or both infinities: the plain sum is infinite or NaN
        return sum(values)


def _is_numbers(value: Any) -> bool:
    """Whether it is a number, or nested lists of numbers."""
    return all(map(_is_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def _name(metric: Any) -> str:
    return type(metric).__name__


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _joined(value: Any) -> Any:
    """A state of torchmetrics as one tensor: lists of tensors are joined along the rows."""
    return torch.cat([torch.atleast_1d(item) for item in value]) if isinstance(value, list) else value


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
