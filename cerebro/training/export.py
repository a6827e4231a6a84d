"""A trained model as files that anybody can read: safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cerebro.errors import DataError
from cerebro.streams import Key
from cerebro.training.frozen import Frozen
from cerebro.training.layout import scalars_of, split
from cerebro.training.learners import Build, call_build
from cerebro.training.randomness import preserved_generators, set_generators
from cerebro.training.state import check_frozen, read_tensors

_MODULE = "module/"


def save_weights(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write parameters and buffers under their names in the module."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def is_whole(state: memoryview) -> bool:
    """Whether a state holds all weights: those of frozen sub-modules are not in it."""
    return "frozen" not in scalars_of(split(state))


def weights_in(state: memoryview) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a state, by their names in the module."""
    return {
        name.removeprefix(_MODULE): tensor for name, tensor in read_tensors(state).items() if name.startswith(_MODULE)
    }


def built(
    build: Build, config: Mapping[str, Any], init_key: Key, state: memoryview
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The module that a state was trained in, and all its weights: the state's, and those of frozen sub-modules.

    The caller's random generators are put back.

    Raises:
        ModelError: `build` does not give the frozen weights that the state was trained with.
    """
    with preserved_generators():
        set_generators(init_key)
        learner = call_build(build, config)
    frozen = Frozen(learner.module, learner.freeze, learner.loss, "") if learner.freeze else None
    check_frozen(scalars_of(split(state)), frozen)
    kept = {
        name: tensor.detach() for name, tensor in _own(learner.module).items() if frozen and id(tensor) in frozen.ids
    }
    return learner.module, {**kept, **weights_in(state)}


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `save_weights` wrote."""
    return load_file(file)


def put_weights(module: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """The module with `weights` in its parameters and buffers, in evaluation mode.

    Raises:
        DataError: the names or shapes are not those of the module.
    """
    own = _own(module)
    for name in sorted(own.keys() | weights.keys()):
        ours, theirs = own.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            raise DataError(
                f"{name}: the file has {_shape(theirs)}, the module {_shape(ours)}; give the build that trained it"
            )
        with torch.no_grad():
            ours.copy_(theirs)
    return module.eval()


def _own(module: Any) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _shape(tensor: torch.Tensor | None) -> str:
    return "no such tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
