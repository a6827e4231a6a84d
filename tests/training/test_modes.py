"""What one model's code switches is switched back before the next unit."""

import sys

import numpy as np
import pytest
import torch

from cerebro.training.modes import Modes

SWITCHES = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "gradients": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "denormals": lambda: torch.set_flush_denormal(True),
    "numpy_errors": lambda: np.seterr(all="raise"),
    "recursion_limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_seen_and_put_back(name: str):
    before = Modes.present()
    SWITCHES[name]()
    changed = Modes.present()
    before.restore()
    assert getattr(changed, name) != getattr(before, name)
    assert Modes.present() == before
