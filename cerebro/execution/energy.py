"""Energy that a run takes: read from counters of the hardware where that is allowed, otherwise estimated."""

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")

CPU_WORKER_WATTS = 10.0
"""What a worker on one CPU core is assumed to take where nothing can be read.

The thermal design power of common processors per core is 4.4 W (AMD EPYC 7763: 280 W, 64 cores), 6.8 W (Intel Xeon
8380: 270 W, 40 cores) and 10.4 W (Intel Core i7-12700: 125 W, 12 cores). The upper end is taken, which leaves the
server chips some watts for memory and fans: a budget should rather end early.
"""
GPU_WORKER_WATTS = 300.0
"""What the GPU of a worker is assumed to take besides: the board power of an NVIDIA V100 or A100 with PCIe."""

KWH_JOULES = 3.6e6
_PAUSE_SECONDS = 1.0
"""Counters are read no more often; RAPL updates about every millisecond, NVML every 20 to 100."""


class Counter(Protocol):
    """Something that counts joules since it was made."""

    def joules(self) -> float:
        """The joules so far.

        Raises:
            OSError: it can no longer be read.
        """
        ...


class EnergyCounter:
    """The energy of a run on this machine since it was made.

    The processors count as a whole (RAPL), with whatever else runs on them; so do the GPUs that the workers use (NVML,
    if `pynvml` can be imported). What has no counter that may be read is estimated as workers times a figure of
    watts (`CPU_WORKER_WATTS`, `GPU_WORKER_WATTS`) times wall time, and `is_estimate` says so.
    """

    def __init__(
        self,
        workers: int,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
        powercap: Path = POWERCAP,
        gpus: Callable[[int], Sequence[Counter]] | None = None,
    ) -> None:
        """Begin to count; `gpus` gives a counter for each of so many GPUs, or none."""
        processors = rapl_packages(powercap)
        self._counters: list[Counter] = list(processors)
        self._watts = 0.0 if processors else workers * CPU_WORKER_WATTS
        if device.startswith("cuda"):
            found = (gpus or nvml_gpus)(workers)
            self._counters += found
            self._watts += 0.0 if found else workers * GPU_WORKER_WATTS
        self.is_estimate = self._watts > 0
        self._clock, self._begun = clock, clock()
        self._read_at, self._counted = -math.inf, 0.0

    def kwh(self) -> float:
        """Kilowatt hours so far; to be asked at least every few minutes, as counters wrap around."""
        now = self._clock()
        if now - self._read_at >= _PAUSE_SECONDS:
            self._read_at = now
            self._read()
        return (self._counted + self._watts * (now - self._begun)) / KWH_JOULES

    def _read(self) -> None:
        try:
            self._counted = sum(counter.joules() for counter in self._counters)
        except OSError:  # such as a permission that was withdrawn: what was counted so far stands
            self.is_estimate = True


def estimated_watts(workers: int, device: str = "cpu") -> float:
    """What so many workers are assumed to take where nothing can be read."""
    each = CPU_WORKER_WATTS + (GPU_WORKER_WATTS if device.startswith("cuda") else 0.0)
    return workers * each


class RaplPackage:
    """The counter of one processor, in `/sys/class/powercap/intel-rapl:N` (of AMD's too)."""

    def __init__(self, folder: Path) -> None:
        """Begin to count.

        Raises:
            OSError, ValueError: it cannot be read; since Linux 5.10 only root may, unless told otherwise.
        """
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last, self._counted = self._microjoules(), 0

    def joules(self) -> float:
        now = self._microjoules()
        # It wraps around after minutes at full power, and is read far more often.
        self._counted += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._counted / 1e6

    def _microjoules(self) -> int:
        return int(self._file.read_text())


def rapl_packages(powercap: Path = POWERCAP) -> list[RaplPackage]:
    """A counter for each processor; none if one of them cannot be read, as a part of them would count too little.

    Packages alone are counted: cores and graphics are parts of them, and `intel-rapl-mmio` and `psys` show them again.
    """
    try:
        folders = [path for path in sorted(powercap.iterdir()) if re.fullmatch(r"intel-rapl:\d+", path.name)]
        names = {folder: (folder / "name").read_text() for folder in folders}
        return [RaplPackage(folder) for folder, name in names.items() if name.startswith("package")]
    except (OSError, ValueError):
        return []


class NvmlGpu:
    """The counter of one GPU; Volta and newer have it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Begin to count; an error of NVML means that this GPU has no counter."""
        self._nvml, self._handle = nvml, handle
        self._first: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def joules(self) -> float:
        try:
            return (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error


def nvml_gpus(count: int) -> list[NvmlGpu]:
    """A counter for each of the first `count` GPUs that CUDA shows; none if one has none, or without `pynvml`."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        return [NvmlGpu(nvml, _handle(nvml, name)) for name in _visible_gpus(count)]
    except nvml.NVMLError:
        return []


def _visible_gpus(count: int) -> list[str]:
    """Index or UUID of the GPUs; NVML does not heed CUDA_VISIBLE_DEVICES by itself."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in shown.split(",") if name.strip()]
    return names[:count] or [str(index) for index in range(count)]


def _handle(nvml: Any, name: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
