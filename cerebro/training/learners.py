"""Building a learner for one config, ready to train: checked, on its device, bound to a flat state."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from cerebro.errors import ModelError
from cerebro.ids import digest
from cerebro.spec.code import code_parts
from cerebro.spec.learner import Learner
from cerebro.streams import Key
from cerebro.training.frozen import Frozen, freeze
from cerebro.training.metrics import Metric, torchmetric
from cerebro.training.randomness import set_generators
from cerebro.training.state import LiveState
from cerebro.training.view import View

Batch = dict[str, torch.Tensor]
Build = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class LiveLearner:
    """A learner with its optimizer and schedule, on its device."""

    learner: Learner
    state: LiveState
    metrics: Mapping[str, Metric]
    modes: Mapping[Any, bool]
    """Whether each sub-module was in training mode as `build` left it; frozen parts may be in evaluation mode."""
    device: torch.device
    output: "LastOutput"
    config: Mapping[str, Any]
    """What `build` was given."""
    frozen: Frozen | None = None
    view: View | None = None
    precision: str = "float32"
    """Of the steps: `float32` as the module is, or `bf16` for autocast."""

    @property
    def module(self) -> Any:
        return self.learner.module

    def viewed(self, batch: Batch) -> Batch:
        """The batch as the user's view shows it, where that is not a derived column already."""
        return batch if self.view is None or not self.view.reason else self.view.of(batch)

    def training_mode(self) -> None:
        """Every sub-module in the mode that `build` left it in."""
        for module, training in self.modes.items():
            module.training = training

    def loss_and_output(self, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The loss of a batch, and the output that the metrics read."""
        with self.autocast():
            result = (self.learner if self.frozen is None else self.frozen).loss(self.module, batch)
        loss, output = result if isinstance(result, tuple) else (result, self.output.take())
        if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise ModelError(f"Learner.loss: gave {shape}; it must give a scalar tensor, the mean over the batch")
        return loss, self.for_metrics(output)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which a loss is computed."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def for_metrics(self, output: Any) -> Any:
        """An output in the precision in which metrics add up."""
        return output if self.precision == "float32" else _widened(output)


def _widened(output: Any) -> Any:
    """Tensors of bfloat16 as float32, also those inside of lists, tuples and dicts."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output
    if isinstance(output, dict):
        return {name: _widened(value) for name, value in output.items()}
    return type(output)(map(_widened, output)) if type(output) in (list, tuple) else output


class LastOutput:
    """A forward hook that keeps what the module returned last, until it is taken."""

    def __init__(self) -> None:
        self._output: Any = None

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        self._output = output

    def take(self) -> Any:
        output, self._output = self._output, None
        return output


def call_build(build: Build, config: Mapping[str, Any]) -> Learner:
    """What the user's `build` gives, with what is not trained frozen.

    Raises:
        ModelError: it is not a learner.
    """
    learner = build(config)
    if not isinstance(learner, Learner):
        raise ModelError(f"build: gave {type(learner).__name__}; it must return a cerebro.Learner")
    freeze(learner.module, learner.freeze)
    return learner


def build_learner(
    build: Build,
    config: Mapping[str, Any],
    init_key: Key,
    label: str | None,
    device: torch.device,
    precision: str = "float32",
) -> LiveLearner:
    """The learner that `build` gives for `config`, with its initial weights drawn from `init_key`.

    Raises:
        ModelError: `build` gives something else, or the parts do not fit together.
    """
    set_generators(init_key)
    learner = call_build(build, config)
    module = learner.module.to(device)
    output = LastOutput()
    if learner.metrics:
        module.register_forward_hook(output)
    optimizer = build_optimizer(learner)
    schedule = learner.schedule(optimizer) if learner.schedule is not None else None
    metrics = {name: as_metric(name, metric, label) for name, metric in learner.metrics.items()}
    modes = {part: part.training for part in module.modules()}
    frozen, view = _derived_parts(learner, build, config)
    state = LiveState(module, optimizer, schedule, frozen)
    return LiveLearner(learner, state, metrics, modes, device, output, config, frozen, view, precision)


def _derived_parts(learner: Learner, build: Build, config: Mapping[str, Any]) -> tuple[Frozen | None, View | None]:
    if not learner.freeze and learner.view is None:
        return None, None
    # What cannot be told is taken to be this config's own.
    salt = digest([config, code_parts(build)])
    frozen = Frozen(learner.module, learner.freeze, learner.loss, salt) if learner.freeze else None
    return frozen, View(learner.view, salt) if learner.view is not None else None


def describe(live: LiveLearner) -> dict[str, Any]:
    """What the planner knows of an architecture: its name, its size, and a signature that equal ones share."""
    module, learner = live.module, live.learner
    tensors = [[name, str(t.dtype), list(t.shape)] for name, t in live.state.tensors() if name.startswith("module/")]
    optimizer = type(live.state.optimizer)
    derived = [part.identity for part in (live.frozen, live.view) if part is not None]
    sizes = [learner.batch_size, learner.eval_batch_size, learner.clip_norm]
    signature = digest([repr(module), tensors, optimizer.__qualname__, *sizes, *derived])
    return {
        "signature": signature,
        "architecture": type(module).__name__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "optimizer": optimizer.__name__ + (" (fused)" if is_fused(live.state.optimizer) else ""),
        "batch_size": learner.batch_size,
        "eval_batch_size": learner.eval_batch_size or learner.batch_size,
        "drop_last": learner.drop_last,
        "metrics": ["loss", *learner.metrics],
    }


def is_fused(optimizer: Any) -> bool:
    """Whether the optimizer runs torch's fused kernel."""
    return all(group.get("fused") for group in optimizer.param_groups)


def build_optimizer(learner: Learner) -> Any:
    """The optimizer of a learner, on the parameters of its module that require gradients.

    Raises:
        ModelError: there are none, or the factory gives something else.
    """
    parameters = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
    if not parameters:
        field = f"Learner.freeze: {list(learner.freeze)} leaves" if learner.freeze else "Learner.module: has"
        raise ModelError(f"{field} no parameter that requires a gradient, so there is nothing to train")
    optimizer = learner.optimizer(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ModelError(f"Learner.optimizer: gave {type(optimizer).__name__}; it must give a torch.optim.Optimizer")
    known = {id(parameter) for parameter in learner.module.parameters()}
    if any(id(parameter) not in known for group in optimizer.param_groups for parameter in group["params"]):
        raise ModelError("Learner.optimizer: it trains parameters that are not in the module, so they could not hop")
    if not any(getattr(part, "sparse", False) is True for part in learner.module.modules()):
        _prefer_fused(optimizer)
    return optimizer


def _prefer_fused(optimizer: Any) -> None:
    """Use the fused kernel where torch has one and the user did not choose: 3-4 times faster for AdamW on CPUs.

    None reads the sparse gradients of embeddings; on GPUs that of Adagrad wants a state that was made for it.
    """
    if not _may_be_fused(type(optimizer)):
        return
    devices = {parameter.device.type for group in optimizer.param_groups for parameter in group["params"]}
    if isinstance(optimizer, torch.optim.Adagrad) and devices != {"cpu"}:
        return
    for group in optimizer.param_groups:
        undecided = group.get("fused") is None and not any(
            group.get(flag) for flag in ("foreach", "differentiable", "capturable")
        )
        floating = all(parameter.is_floating_point() for parameter in group["params"])
        if undecided and floating:
            group["fused"] = True


@functools.cache
def _may_be_fused(kind: type) -> bool:
    return "fused" in inspect.signature(kind.__init__).parameters


def as_metric(name: str, metric: Any, label: str | None) -> Metric:
    """A metric of a learner as one of Cerebro's.

    Raises:
        ModelError: it is neither of Cerebro nor of torchmetrics, or reads a label that the dataset does not have.
    """
    if isinstance(metric, Metric):
        return metric
    if not hasattr(metric, "_reductions"):
        raise ModelError(f"Learner.metrics[{name!r}]: {metric!r} is neither of cerebro.metrics nor of torchmetrics")
    if label is None:
        raise ModelError(
            f"Learner.metrics[{name!r}]: a torchmetrics object reads the dataset's label, and the dataset has none; "
            "use cerebro.metrics.torchmetric(metric, column), or ingest with label="
        )
    return torchmetric(metric, label)
