"""Fixtures for tests that compute as workers do, on each device that this machine has."""

from collections.abc import Iterator

import pytest
import torch

from cerebro.training.devices import one_thread, set_threads, steady_cudnn
from tests.training import fused_nets


@pytest.fixture(scope="module")
def as_workers() -> Iterator[None]:
    """With one thread, since two compute other bits, and steady kernels of cuDNN."""
    threads, is_steady = one_thread(), steady_cudnn()
    yield
    set_threads(threads)
    steady_cudnn(is_steady)


_GPUS = [pytest.param("cuda:0", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []


@pytest.fixture(scope="module", params=["cpu", *_GPUS])
def device(request: pytest.FixtureRequest, as_workers: None) -> Iterator[torch.device]:
    """Where `fused_nets` builds learners."""
    before, fused_nets.DEVICE = fused_nets.DEVICE, torch.device(request.param)
    yield fused_nets.DEVICE
    fused_nets.DEVICE = before
