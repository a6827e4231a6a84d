"""What a config would build, without training it: to see whether a model can be cloned with another config."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from cerebro.errors import ModelError
from cerebro.spec.stages import at_epoch, stage_starts
from cerebro.training.adoption import COLD, RESET, fill_memory, memory_of, parameters_of
from cerebro.training.layout import dtype_name
from cerebro.training.learners import Build, as_metric, build_optimizer, call_build
from cerebro.training.modes import Modes
from cerebro.training.randomness import preserved_generators

STAGE = "a stage may change rates, penalties, the loss or the batch size, but not what is trained, nor what by"

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""The type and shape of each parameter and buffer, by name."""


@dataclass(frozen=True, slots=True)
class _Blueprint:
    """What of a learner a clone must have in common with its ancestor."""

    tensors: Shapes
    optimizer: str
    trained: tuple[tuple[str, ...], ...]
    """The names of the parameters in each group of the optimizer."""
    memory: Mapping[str, tuple[str, ...]]
    """What the optimizer remembers of each parameter; empty unless that was asked."""
    frozen: frozenset[str] = frozenset()
    """The tensors that no state holds, since they are never trained."""


def shapes(build: Build, config: Mapping[str, Any], label: str | None) -> Shapes:
    """The type and shape of each parameter and buffer of the module that `build` gives; `label` is the dataset's.

    What `build` raises is the caller's to guard.

    Raises:
        ModelError: `build` gives something else than a learner, or its parts do not fit together.
    """
    return _blueprint(build, config, label, with_memory=False).tensors


def optimizer_name(build: Build, config: Mapping[str, Any], label: str | None) -> str:
    """The class of the optimizer of the learner that `build` gives; raises as `shapes` does."""
    return _blueprint(build, config, label, with_memory=False).optimizer


def check_clone(
    build: Build,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    label: str | None,
    optimizer: Literal["keep", "reset"],
    model: str = "the ancestor",
) -> None:
    """Check that a clone with the config `after` can start from the state of `model`, whose config is `before`.

    Raises:
        ModelError: it cannot, with the first difference and the way out; or as `shapes` does.
    """
    keep = optimizer == "keep"
    ours, theirs = (_blueprint(build, config, label, with_memory=keep) for config in (before, after))
    _check(ours, theirs, _Words(model, "the clone", COLD, RESET, "freeze no more than it did"), keep)


def check_stages(build: Build, config: Mapping[str, Any], label: str | None) -> None:
    """Check that the state of each stage of a config is one that the next stage can go on from.

    Raises:
        ModelError: it is not, with the first difference; or as `shapes` does.
    """
    starts = stage_starts(config)
    if len(starts) == 1:
        return
    found = [_blueprint(build, at_epoch(config, start), label, with_memory=True) for start in starts]
    for (before, after), (ours, theirs) in zip(pairwise(starts), pairwise(found), strict=True):
        words = _Words(f"stage @{before}", f"stage @{after}", STAGE, STAGE, STAGE)
        _check(ours, theirs, words, keep=True)


@dataclass(frozen=True, slots=True)
class _Words:
    """How errors call the two configs, and what they advise."""

    model: str
    heir: str
    if_shapes: str
    if_optimizers: str
    if_frozen: str


def _check(ours: _Blueprint, theirs: _Blueprint, words: _Words, keep: bool) -> None:
    _check_tensors(ours.tensors, theirs.tensors, words)
    for name in sorted(theirs.frozen - ours.frozen):
        raise ModelError(f"{words.heir} would freeze {name}, which {words.model} has trained: {words.if_frozen}")
    if keep:
        _check_optimizers(ours, theirs, words)


def _blueprint(build: Build, config: Mapping[str, Any], label: str | None, with_memory: bool) -> _Blueprint:
    """Builds for real: on the meta device, what user code caches between builds would have no data ever after.

    Where the module lies is left as it is for the same reason.
    """
    modes = Modes.present()
    with preserved_generators():
        try:
            learner = call_build(build, config)
            for name, metric in learner.metrics.items():
                as_metric(name, metric, label)
            found = _blueprint_of(learner.module, build_optimizer(learner), with_memory)
            return replace(found, frozen=_frozen_names(found.tensors, learner.freeze))
        finally:
            modes.restore()


def _blueprint_of(module: Any, optimizer: Any, with_memory: bool) -> _Blueprint:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    trained = tuple(tuple(names[id(p)] for p in group["params"]) for group in optimizer.param_groups)
    memory: dict[str, tuple[str, ...]] = {}
    if with_memory:
        fill_memory(optimizer)
        parameters = parameters_of(optimizer)
        memory = {names[id(parameters[i])]: tuple(sorted(held)) for i, held in memory_of(optimizer).items()}
    described = {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return _Blueprint(described, type(optimizer).__qualname__, trained, memory)


def _frozen_names(names: Iterable[str], freeze: Iterable[str]) -> frozenset[str]:
    parts = tuple(f"{part}." for part in freeze)
    return frozenset(name for name in names if name.startswith(parts))


def _check_tensors(ours: Shapes, theirs: Shapes, words: _Words) -> None:
    model, heir, advice = words.model, words.heir, words.if_shapes
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        if one == other:
            continue
        if one is None or other is None:
            has, would = ("has", "would not") if other is None else ("has no", "would")
            raise ModelError(f"{model} {has} {name}, {heir} {would}: {advice}")
        part = 0 if one[1] == other[1] else 1  # types are told where the shapes are the same
        raise ModelError(f"{model} has {name} {one[part]}, {heir} would have {other[part]}: {advice}")


def _check_optimizers(ours: _Blueprint, theirs: _Blueprint, words: _Words) -> None:
    model, heir, advice = words.model, words.heir, words.if_optimizers
    if ours.optimizer != theirs.optimizer:
        raise ModelError(
            f"{model} was trained by {ours.optimizer}, {heir} would be by {theirs.optimizer}, "
            f"which cannot use what the other remembers: {advice}"
        )
    if ours.trained != theirs.trained:
        name = _first_moved(ours.trained, theirs.trained)
        raise ModelError(f"{name} has not the same place in the optimizer of {model} and that of {heir}: {advice}")
    for name, held in ours.memory.items():
        if held != theirs.memory.get(name, ()):
            raise ModelError(
                f"the optimizer of {model} remembers {_list(held)} of {name}, that of {heir} would "
                f"{_list(theirs.memory.get(name, ()))}: {advice}"
            )


def _first_moved(ours: tuple[tuple[str, ...], ...], theirs: tuple[tuple[str, ...], ...]) -> str:
    """The first parameter that one optimizer trains in another place than the other, or not at all."""
    places = [
        {name: (number, place) for number, group in enumerate(groups) for place, name in enumerate(group)}
        for groups in (ours, theirs)
    ]
    return next(name for name in {**places[0], **places[1]} if places[0].get(name) != places[1].get(name))


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
