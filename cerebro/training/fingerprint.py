"""What the numerics of this process depend on, and a canary that sings when they change."""

import hashlib
import platform
from typing import Any

import numpy as np
import torch

from cerebro.streams import SCHEME
from cerebro.training.devices import bf16_features
from cerebro.training.randomness import check_generators, preserved_generators, set_generators

_STEPS = 2


def fingerprint(device_name: str) -> dict[str, Any]:
    """The versions, CPU features and settings that decide the bits, and the digest of a few tiny trainings.

    Two processes with equal fingerprints are taken to compute the same bits.

    Raises:
        InternalError: torch's generators do not behave as expected.
    """
    device = torch.device(device_name)
    with preserved_generators():
        check_generators()
        canary = _canary(device)
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": bf16_features(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "streams": SCHEME,
        "canary": canary,
    }


def warm_up() -> None:
    """Let torch make what it makes of its kernels when they are called first: a process that is forked then has it.

    Without a backward pass, which would start threads.
    """
    with preserved_generators():
        for build in _NETS:
            module, batch = build()
            module(batch)


def _canary(device: torch.device) -> str:
    """The digest of what four tiny nets compute in two optimizer steps each."""
    total = hashlib.sha256()
    for build in _NETS:
        set_generators(("canary", build.__name__))
        module, batch = build()
        module, batch = module.to(device), batch.to(device)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, fused=True)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            _first(module(batch)).square().mean().backward()
            optimizer.step()
        for parameter in module.parameters():
            total.update(parameter.detach().cpu().numpy().tobytes())
    return total.hexdigest()[:16]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    net = torch.nn.Sequential(torch.nn.Linear(67, 130), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(130, 5))
    return net, torch.randn(61, 67)


def _convolution() -> tuple[torch.nn.Module, torch.Tensor]:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 18, 3, padding=1), torch.nn.BatchNorm2d(18), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )
    return net, torch.randn(9, 3, 14, 14)


def _recurrent() -> tuple[torch.nn.Module, torch.Tensor]:
    return torch.nn.LSTM(11, 23, batch_first=True), torch.randn(17, 13, 11)


def _attention() -> tuple[torch.nn.Module, torch.Tensor]:
    return torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.randn(7, 12, 32)


_NETS = (_mlp, _convolution, _recurrent, _attention)
