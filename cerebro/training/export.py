"""A trained model as files that anybody can read: safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cerebro.errors import DataError
from cerebro.training.state import read_tensors

_MODULE = "module/"


def save_weights(state: memoryview, file: Path) -> None:
    """Write the parameters and buffers of a state under their names in the module."""
    tensors = {
        name.removeprefix(_MODULE): tensor.contiguous()
        for name, tensor in read_tensors(state).items()
        if name.startswith(_MODULE)
    }
    save_file(tensors, file)


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `save_weights` wrote."""
    return load_file(file)


def put_weights(module: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """The module with `weights` in its parameters and buffers, in evaluation mode.

    Raises:
        DataError: the names or shapes are not those of the module.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in sorted(own.keys() | weights.keys()):
        ours, theirs = own.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            raise DataError(
                f"{name}: the file has {_shape(theirs)}, the module {_shape(ours)}; give the build that trained it"
            )
        with torch.no_grad():
            ours.copy_(theirs)
    return module.eval()


def _shape(tensor: torch.Tensor | None) -> str:
    return "no such tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
