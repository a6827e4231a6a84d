"""A learner: what `build(config)` returns, everything needed to train one model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.errors import SpecError
from cerebro.spec.below import frozen_below

RESERVED_METRICS = ("loss",)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Everything needed to train one model.

    Attributes:
        module: any `torch.nn.Module`.
        loss: `loss(module, batch)` gives the mean loss of the batch, a scalar tensor, or `(loss, output)`.
            `batch` maps each column of the dataset to a tensor `[rows, ...]`. Metrics read `output`, which by
            default is what the last call of `module` in the loss returned.
        optimizer: a factory that takes the parameters, such as `partial(torch.optim.AdamW, lr=1e-3)`.
        batch_size: rows in a training batch.
        metrics: named metrics beside the loss: `cerebro.metrics.*`, or torchmetrics objects (their target is
            the dataset's label).
        schedule: a factory that takes the optimizer and gives a `torch.optim.lr_scheduler`, stepped after every
            batch.
        clip_norm: gradients are scaled down to this total norm.
        drop_last: leave out the last batch of a visit where it is smaller than `batch_size`.
        shuffle: permute the rows of a shard anew on every visit.
        eval_batch_size: rows in a validation batch; `batch_size` if not given.
        freeze: sub-modules that are not trained, by their dotted names, such as `["backbone"]`. They are always in
            evaluation mode (dropout does nothing, batch norm uses its running statistics), and are no part of the
            model's state: `build` makes them, and must make them alike whenever it is called. What they give is
            computed in batches of 256 rows in the order of a shard, wherever that is a function of the rows alone,
            so that models can share it; otherwise in each training batch, as it is.
        freeze_below: the first sub-module that is trained, such as `"encoder.layer.4"` or `"head"`: all that its module
            and those around it list before it is frozen too, in the order in which they were registered. It itself
            and what is listed after it is trained. So it can be one dimension of a space, beside `None`.
        view: `view(batch) -> batch`, a data representation such as windowing, with a row for each row, that the loss
            is given in place of the batch. It must be pure; one that is random is applied to every batch as it is.
            What it depends on is best bound with `functools.partial`.

    Raises:
        SpecError: naming the field.
    """

    module: Any
    loss: Callable[[Any, Mapping[str, Any]], Any]
    optimizer: Callable[[Any], Any]
    batch_size: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[Any], Any] | None = None
    clip_norm: float | None = None
    drop_last: bool = False
    shuffle: bool = True
    eval_batch_size: int | None = None
    freeze: Sequence[str] = ()
    freeze_below: str | None = None
    view: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        _check_module(self.module)
        _check_callable("loss", self.loss, "a function of (module, batch)")
        if hasattr(self.optimizer, "param_groups"):
            raise SpecError(
                "Learner.optimizer: got an optimizer that is already built; "
                "give a factory such as partial(torch.optim.AdamW, lr=1e-3)"
            )
        _check_callable("optimizer", self.optimizer, "a factory such as partial(torch.optim.AdamW, lr=1e-3)")
        _check_batch("batch_size", self.batch_size)
        if self.eval_batch_size is not None:
            _check_batch("eval_batch_size", self.eval_batch_size)
        if self.schedule is not None:
            _check_callable("schedule", self.schedule, "a function of the optimizer that gives an LRScheduler")
        if self.clip_norm is not None and not (isinstance(self.clip_norm, int | float) and self.clip_norm > 0):
            raise SpecError(f"Learner.clip_norm: {self.clip_norm!r} is not a positive number")
        _check_metrics(self.metrics)
        _check_freeze(self.freeze, self.module)
        if self.freeze_below is not None:
            object.__setattr__(self, "freeze", frozen_below(self.freeze_below, self.module, self.freeze))
        if self.view is not None:
            _check_callable("view", self.view, "a function of the batch that gives a batch")


def _check_module(module: Any) -> None:
    if not (callable(getattr(module, "state_dict", None)) and callable(getattr(module, "parameters", None))):
        raise SpecError(f"Learner.module: {_kind(module)} is not a torch.nn.Module")


def _check_callable(name: str, value: Any, expected: str) -> None:
    if not callable(value):
        raise SpecError(f"Learner.{name}: {_kind(value)} cannot be called; give {expected}")


def _check_batch(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"Learner.{name}: {value!r} is not a whole number of at least 1")


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise SpecError(f'Learner.metrics: {_kind(metrics)} is not a dict; write {{"accuracy": ...}}')
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise SpecError(f"Learner.metrics: {name!r} is not a name; use letters, digits and '_'")
        if name in RESERVED_METRICS:
            raise SpecError(f"Learner.metrics: {name!r} is always measured; choose another name")
        if not (callable(getattr(metric, "update", None)) and callable(getattr(metric, "compute", None))):
            raise SpecError(
                f"Learner.metrics[{name!r}]: {_kind(metric)} is not a metric; "
                "use cerebro.metrics.accuracy(...), another of cerebro.metrics, or a torchmetrics object"
            )


def _check_freeze(names: Any, module: Any) -> None:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise SpecError(f'Learner.freeze: {names!r} is not a list of names; write ["backbone"]')
    if not names:
        return
    known = {name for name, _ in module.named_modules() if name}
    for name in names:
        if name not in known:
            near = ", ".join(sorted(known, key=lambda other: (other.count("."), other))[:8])
            raise SpecError(f"Learner.freeze: the module has no sub-module {name!r}; it has {near or 'none'}")


def _kind(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
