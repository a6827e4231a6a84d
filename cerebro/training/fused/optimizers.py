"""The optimizers' step for all members: torch's fused kernels, called on lists that are made once.

Each member keeps its own optimizer, whose state is at every moment what its own `step` would have made of it. One that
this module does not know, or that makes its state in this step, steps by itself.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cerebro.training.fused.weights import ManyParameter
from cerebro.training.learners import LiveLearner

Gradients = list[tuple[torch.Tensor | None, ...]]
"""For each parameter of the module, the gradient of each member."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """What a kernel takes."""

    places: tuple[tuple[int, int], ...]
    """For each tensor that is trained its place in the module, and the member."""
    parameters: list[torch.Tensor]
    memory: tuple[list[torch.Tensor], ...]
    """What the optimizer remembers: for each kind, one tensor for each parameter."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A group of parameters of one member's optimizer, of one type of numbers."""

    kernel: "type[_Adam] | type[_SGD]"
    optimizer: Any
    group: Mapping[str, Any]
    lists: _Lists


class Steps:
    """Steps the optimizers and the schedules of a group."""

    def __init__(self, lives: Sequence[LiveLearner], parameters: Sequence[ManyParameter]) -> None:
        self._parameters = parameters
        self._optimizers = [live.state.optimizer for live in lives]
        self._kernels = [_kernel_of(optimizer) for optimizer in self._optimizers]
        self._are_aligned = None in self._kernels  # torch's own kernels do not look at where a gradient begins
        self._clips = [_clipped(live) for live in lives]
        self._schedules = [live.state.schedule for live in lives if live.state.schedule is not None]
        self._places = {id(own): place for place, value in enumerate(parameters) for own in value.own}
        self._gradients: Gradients = []
        """Those of the last step, and in the lists that the calls take."""
        self._taken: list[list[Any]] = []
        self._present: list[tuple[bool, ...]] | None = None
        self._alone: list[int] = []
        self._parts: list[_Part] = []
        self._counters = _Counters([])
        self._calls: list[tuple[_Part, _Lists]] = []
        self._equal: tuple[int, ...] | None = None

    def begin(self) -> None:
        """Forget the gradients of the last batch."""
        for parameter in self._parameters:
            parameter.forget_gradients()

    def step(self) -> bool:
        """One step of every member; gives whether optimizers made tensors, so that states lie elsewhere now."""
        gradients = [parameter.gradients(self._are_aligned) for parameter in self._parameters]
        if self._schedules or not _are_the_same(gradients, self._gradients):
            self._sort(gradients)
            self._take(gradients)
        self._clip(gradients)
        for member in self._alone:
            self._give(member, gradients)
            self._optimizers[member].step()
        with torch.no_grad():
            self._counters.count()
            for (part, lists), taken in zip(self._calls, self._taken, strict=True):
                part.kernel.run(part, lists, taken)
        for schedule in self._schedules:
            schedule.step()
        made = any(self._kernels[member] is not None for member in self._alone)
        if made:
            self._present, self._gradients = None, []
        return made

    def _sort(self, gradients: Gradients) -> None:
        """See who steps alone, and make the lists of the others; again only where something changed."""
        present = [tuple([gradient is not None for gradient in column]) for column in gradients]
        if present != self._present:
            parts = [self._parts_of(member, present) for member in range(len(self._optimizers))]
            self._alone = [member for member, found in enumerate(parts) if found is None]
            self._parts = [part for found in parts for part in found or ()]
            self._counters = _Counters([step for part in self._parts for step in part.kernel.counters(part)])
            self._present, self._equal = present, None
        elif not self._schedules:
            return
        settings: dict[Any, int] = {}
        keys = [(part.kernel.settings(part), part.lists.parameters[0].dtype) for part in self._parts]
        equal = tuple([settings.setdefault(key, number) for number, key in enumerate(keys)])
        if equal != self._equal:
            self._equal, self._calls = equal, list(_joined(self._parts, equal))

    def _take(self, gradients: Gradients) -> None:
        self._gradients = gradients
        self._taken = [[gradients[place][member] for place, member in lists.places] for _, lists in self._calls]

    def _parts_of(self, member: int, present: Sequence[Sequence[bool]]) -> list[_Part] | None:
        """The lists of one member; None where its optimizer must step by itself."""
        kernel, optimizer = self._kernels[member], self._optimizers[member]
        if kernel is None:
            return None
        parts: list[_Part] = []
        for group in optimizer.param_groups:
            trained = [p for p in group["params"] if present[self._places[id(p)]][member]]
            if not kernel.fits(group) or not all(kernel.remembers(optimizer, group, p) for p in trained):
                return None
            for dtype in dict.fromkeys(p.dtype for p in trained):
                some = [p for p in trained if p.dtype == dtype]
                memory = tuple([optimizer.state[p][key] for p in some] for key in kernel.memory(group))
                places = tuple((self._places[id(p)], member) for p in some)
                parts.append(_Part(kernel, optimizer, group, _Lists(places, some, memory)))
        return parts

    def _clip(self, gradients: Gradients) -> None:
        for member, clip in enumerate(self._clips):
            if clip is not None:
                self._give(member, gradients)
                torch.nn.utils.clip_grad_norm_(*clip)

    def _give(self, member: int, gradients: Gradients) -> None:
        for value, column in zip(self._parameters, gradients, strict=True):
            value.own[member].grad = column[member]


def _are_the_same(one: Gradients, other: Gradients) -> bool:
    """Whether they are the very same tensors."""
    return len(one) == len(other) and all(map(operator.is_, one, other))


class _Adam:
    """`torch.optim.Adam` and `AdamW`."""

    @staticmethod
    def fits(group: Mapping[str, Any]) -> bool:
        return _is_plain(group, "lr", "weight_decay", "eps") and not any(
            isinstance(b, torch.Tensor) for b in group["betas"]
        )

    @staticmethod
    def memory(group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "step")

    @staticmethod
    def remembers(optimizer: Any, group: Mapping[str, Any], parameter: torch.Tensor) -> bool:
        return bool(optimizer.state.get(parameter))

    @staticmethod
    def counters(part: _Part) -> list[torch.Tensor]:
        return part.lists.memory[2]

    @staticmethod
    def settings(part: _Part) -> tuple[Any, ...]:
        group = part.group
        return _Adam, _decays(part), group["lr"], group["betas"], group["weight_decay"], group["eps"]

    @staticmethod
    def run(part: _Part, lists: _Lists, gradients: list[Any]) -> None:
        group, (averages, squares, steps) = part.group, lists.memory
        beta1, beta2 = group["betas"]
        run = torch._fused_adamw_ if _decays(part) else torch._fused_adam_
        run(
            lists.parameters, gradients, averages, squares, [], steps, amsgrad=False, lr=group["lr"], beta1=beta1,
            beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"], maximize=False, grad_scale=None,
            found_inf=None,
        )  # fmt: skip


class _SGD:
    """`torch.optim.SGD`."""

    @staticmethod
    def fits(group: Mapping[str, Any]) -> bool:
        return _is_plain(group, "lr", "weight_decay", "momentum", "dampening")

    @staticmethod
    def memory(group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    @staticmethod
    def remembers(optimizer: Any, group: Mapping[str, Any], parameter: torch.Tensor) -> bool:
        return not group["momentum"] or optimizer.state.get(parameter, {}).get("momentum_buffer") is not None

    @staticmethod
    def counters(part: _Part) -> list[torch.Tensor]:
        return []

    @staticmethod
    def settings(part: _Part) -> tuple[Any, ...]:
        return _SGD, *(part.group[name] for name in ("lr", "weight_decay", "momentum", "dampening", "nesterov"))

    @staticmethod
    def run(part: _Part, lists: _Lists, gradients: list[Any]) -> None:
        group = part.group
        torch._fused_sgd_(
            lists.parameters, gradients, *lists.memory or ([],), weight_decay=group["weight_decay"],
            momentum=group["momentum"], lr=group["lr"], dampening=group["dampening"], nesterov=group["nesterov"],
            maximize=False, is_first_step=False, grad_scale=None, found_inf=None,
        )  # fmt: skip


class _Counters:
    """The step counters of many parameters, counted in one operation where they lie in one memory."""

    def __init__(self, steps: list[torch.Tensor]) -> None:
        self._steps = steps
        self._places: torch.Tensor | None = None
        storages = {step.untyped_storage().data_ptr(): step.untyped_storage() for step in steps}
        if len(storages) == 1 and {(step.dtype, step.device.type) for step in steps} == {(torch.float32, "cpu")}:
            ((start, storage),) = storages.items()
            self._all = torch.empty(0).set_(storage)  # type: ignore[call-overload]
            self._places = torch.tensor([(step.data_ptr() - start) // 4 for step in steps])
            self._ones = torch.ones(len(steps))

    def count(self) -> None:
        """One more step."""
        if self._places is not None:
            self._all.index_add_(0, self._places, self._ones)
        elif self._steps:
            torch._foreach_add_(self._steps, 1)


def _kernel_of(optimizer: Any) -> "type[_Adam] | type[_SGD] | None":
    """The kernel that an optimizer's own step would run, and nothing else."""
    kinds = {torch.optim.Adam: _Adam, torch.optim.AdamW: _Adam, torch.optim.SGD: _SGD}
    kernel = kinds.get(type(optimizer))
    step = vars(optimizer).get("step")
    is_changed = step is not None and not hasattr(step, "_wrapped_by_lr_sched")
    is_scaled = getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None
    is_watched = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return None if kernel is None or is_changed or is_scaled or is_watched else kernel


def _is_plain(group: Mapping[str, Any], *numbers: str) -> bool:
    flags = ("amsgrad", "maximize", "foreach", "capturable", "differentiable")
    is_float = all(isinstance(group[name], int | float) for name in numbers)
    return bool(group.get("fused")) and is_float and not any(group.get(flag) for flag in flags)


def _decays(part: _Part) -> bool:
    """Whether weights decay beside the gradient, as in AdamW."""
    return part.group.get("decoupled_weight_decay", type(part.optimizer) is torch.optim.AdamW)


def _clipped(live: LiveLearner) -> tuple[list[torch.Tensor], float] | None:
    limit = live.learner.clip_norm
    if not limit:
        return None
    return [p for group in live.state.optimizer.param_groups for p in group["params"]], limit


def _joined(parts: Sequence[_Part], equal: Sequence[int]) -> Iterator[tuple[_Part, _Lists]]:
    """One call for all parts whose settings are equal: the kernels take tensor after tensor."""
    for first in dict.fromkeys(equal):
        alike = [part.lists for part, number in zip(parts, equal, strict=True) if number == first]
        memory = tuple([t for lists in alike for t in lists.memory[i]] for i in range(len(alike[0].memory)))
        places = tuple(place for lists in alike for place in lists.places)
        yield parts[first], _Lists(places, [p for lists in alike for p in lists.parameters], memory)
