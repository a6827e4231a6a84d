"""The switches that are global to a process: put back before every unit, so that no model's code reaches another's."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Modes:
    """How the process computes, as far as user code may change it and bits or errors depend on it."""

    threads: int
    dtype: torch.dtype
    device: torch.device
    gradients: bool
    autocast: bool
    deterministic: tuple[bool, bool]
    """Whether only deterministic algorithms are used, and whether the others only warn."""
    cudnn: tuple[bool, bool]
    """Whether cuDNN chooses only kernels that add up in one order, and whether it may multiply in TF32."""
    anomalies: bool
    matmul_precision: str
    denormals: bool
    """Whether numbers next to zero are kept; a processor flag that torch can set and not tell."""
    numpy_errors: Any
    recursion_limit: int

    @classmethod
    def present(cls) -> "Modes":
        """The modes as they are now."""
        return cls(
            threads=torch.get_num_threads(),
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            gradients=torch.is_grad_enabled(),
            autocast=torch.is_autocast_enabled("cpu"),
            deterministic=(
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            cudnn=(torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
            anomalies=torch.is_anomaly_enabled(),
            matmul_precision=torch.get_float32_matmul_precision(),
            denormals=sys.float_info.min / 2 > 0,
            numpy_errors=np.geterr(),
            recursion_limit=sys.getrecursionlimit(),
        )

    def restore(self) -> None:
        """Put back what is not as it was."""
        now = Modes.present()
        if now == self:
            return
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        if now.device != self.device:  # even setting it to what it is makes every later call of torch slower
            torch.set_default_device(self.device)
        torch.set_grad_enabled(self.gradients)
        torch.set_autocast_enabled("cpu", self.autocast)
        torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = self.cudnn
        torch.autograd.set_detect_anomaly(self.anomalies)
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.set_flush_denormal(not self.denormals)
        np.seterr(**self.numpy_errors)
        sys.setrecursionlimit(self.recursion_limit)
