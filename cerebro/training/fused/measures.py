"""What the members' metrics measure in a visit, gathered for all of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from cerebro.training.fused.likeness import difference
from cerebro.training.fused.loops import each
from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.noise import with_the_same_noise
from cerebro.training.fused.strides import NotFusedError
from cerebro.training.learners import Batch, LiveLearner
from cerebro.training.metrics import Meter, Metric, TorchMetric, merged
from cerebro.training.player import Given
from cerebro.training.train import LOSS, Visit


class Measures:
    """Gathers the statistics of a visit: once for all members where their metrics are equal, else of each."""

    def __init__(self, group: Group, lives: Sequence[LiveLearner]) -> None:
        self._group = group
        self._joint = _common([live.metrics for live in lives])
        self._apart = [
            {name: Meter(metric) for name, metric in live.metrics.items() if name not in self._joint} for live in lives
        ]
        self._names = [["loss", *live.metrics] for live in lives]
        self._joint["loss"] = LOSS
        self._series: dict[str, dict[str, list[Any]]] = {name: {} for name in self._joint}
        self._rows = 0

    def measured(self, batch: Batch, loss: Many, output: Any) -> Given:
        """What a batch gives: tensors, and where they belong.

        Raises:
            NotFusedError: a metric cannot read the output of all members at once, or there is none.
        """
        if output is None and len(self._names[0]) > 1:
            raise NotFusedError("the loss never called the module")
        tensors, forms = list[torch.Tensor](), list[_Form]()
        with torch.no_grad():
            for name, metric in self._joint.items():
                statistics = metric.measure(loss if name == "loss" else output, batch)
                if not isinstance(statistics, Mapping):
                    raise NotFusedError(f"the metric {name} gave no mapping")
                for part, value in statistics.items():
                    found, form = _parted(name, part, value)
                    tensors += found
                    forms.append(form)
            if any(self._apart):
                self._add_apart(batch, output)
        return tensors, forms

    @property
    def are_joint(self) -> bool:
        """Whether all that is measured is in what `measured` gives."""
        return not any(self._apart)

    def keep(self, rows: int, tensors: Sequence[Any], forms: "Sequence[_Form]") -> None:
        """Keep what a batch of so many rows gave."""
        self._rows += rows
        rest = iter(tensors)
        for form in forms:
            self._series[form.metric].setdefault(form.part, []).append(_joined(self._group, form, rest))

    def visits(self) -> list[Visit]:
        """What the visit gave, for each member."""
        series = {
            name: {part: _of_each(self._group.size, values) for part, values in parts.items()}
            for name, parts in self._series.items()
        }
        return [Visit(self._rows, self._partials(member, series)) for member in range(self._group.size)]

    def _partials(self, member: int, series: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        joint = {
            name: {part: merged(part, columns[member]) for part, columns in parts.items()}
            for name, parts in series.items()
        }
        apart = {name: meter.partial() for name, meter in self._apart[member].items()}
        return {name: joint[name] if name in joint else apart[name] for name in self._names[member]}

    def _add_apart(self, batch: Batch, output: Any) -> None:
        outputs = iter(zip(self._apart, each(self._group.size, _itself, (output,), {}, random=False), strict=True))

        def measure() -> None:
            meters, own = next(outputs)
            for meter in meters.values():
                meter.add(meter.metric.measure(own, batch))

        with_the_same_noise(self._group.size, measure)


def _common(metrics: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """The metrics that all members have, in the order of the first."""
    first = metrics[0]
    return {
        name: metric
        for name, metric in first.items()
        if not isinstance(metric, TorchMetric)
        and all(name in own and difference(metric, own[name]) is None for own in metrics[1:])
    }


def _of_each(size: int, values: list[Any]) -> list[list[Any]]:
    """For each member what it measured in each batch, as plain numbers."""
    if all(isinstance(value, Many) for value in values):
        if not any(value.is_tuple for value in values) and len({value.shape for value in values}) == 1:
            return torch.stack([value.stacked() for value in values], 1).tolist()
        batches = [[member.tolist() for member in value.members()] for value in values]
        return [list(column) for column in zip(*batches, strict=True)]
    if any(isinstance(value, Many) for value in values):
        raise NotFusedError("a metric depends on the model in some batches only")
    plain = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    return [plain] * size


class _Form(NamedTuple):
    """A statistic without its numbers: `all` members as one tensor, `each` in one of its own, one that is `shared`, or
    the value itself where it is none.
    """

    metric: str
    part: str
    kind: Literal["all", "each", "shared", "plain"]
    plain: Any = None


def _parted(metric: str, part: str, value: Any) -> tuple[Sequence[torch.Tensor], _Form]:
    if isinstance(value, Many):
        tensors = value.members() if value.is_tuple else [value.stacked()]
        return tensors, _Form(metric, part, "each" if value.is_tuple else "all")
    if isinstance(value, torch.Tensor):
        return [value], _Form(metric, part, "shared")
    return [], _Form(metric, part, "plain", value)


def _joined(group: Group, form: _Form, tensors: Iterator[torch.Tensor]) -> Any:
    match form.kind:
        case "all":
            return Many(group, next(tensors))
        case "each":
            return Many(group, None, tuple(itertools.islice(tensors, group.size)))
        case "shared":
            return next(tensors)
        case "plain":
            return form.plain


def _itself(value: Any) -> Any:
    return value
