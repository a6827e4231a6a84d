"""Energy: counters that wrap around, are missing or forbidden, and the estimate in their place."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cerebro.execution import energy
from cerebro.execution.energy import CPU_WORKER_WATTS, GPU_WORKER_WATTS, KWH_JOULES, EnergyCounter, estimated_watts

RANGE = 1_000_000_000


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def domain(powercap: Path, folder: str, name: str, microjoules: int = 0) -> Path:
    """A domain of RAPL as Linux shows it; gives the file of its counter."""
    place = powercap / folder
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


def test_the_packages_are_summed_and_their_parts_are_not_counted_twice(tmp_path: Path):
    names = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core", "intel-rapl:2": "psys"}
    files = [domain(tmp_path, folder, name, 7) for folder, name in names.items()]
    files.append(domain(tmp_path, "intel-rapl-mmio:0", "package-0", 7))
    clock = Clock()
    counter = EnergyCounter(2, clock=clock, powercap=tmp_path)
    for file in files:
        file.write_text(str(7 + 3_600_000))
    clock.now = 10.0
    assert counter.kwh() == pytest.approx(7.2 / KWH_JOULES)
    assert not counter.is_estimate


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path):
    file = domain(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    clock = Clock()
    counter = EnergyCounter(1, clock=clock, powercap=tmp_path)
    for clock.now, microjoules in ((2.0, 3_000_000), (4.0, 4_000_000), (6.0, 1_000_000)):
        file.write_text(str(microjoules))
        joules = counter.kwh() * KWH_JOULES
    assert joules == pytest.approx(5 + 1 + (RANGE - 3_000_000) / 1e6)


def test_a_counter_is_not_read_more_often_than_it_is_worth(tmp_path: Path):
    file = domain(tmp_path, "intel-rapl:0", "package-0")
    clock = Clock()
    counter = EnergyCounter(1, clock=clock, powercap=tmp_path)
    assert counter.kwh() == 0
    file.write_text("5000000")
    clock.now = 0.5
    assert counter.kwh() == 0
    clock.now = 1.0
    assert counter.kwh() == pytest.approx(5 / KWH_JOULES)


@pytest.mark.parametrize("spoil", ["missing", "no number", "no folder"])
def test_what_cannot_be_read_is_estimated_and_says_so(tmp_path: Path, spoil: str):
    powercap = tmp_path / "powercap"
    if spoil != "no folder":
        domain(powercap, "intel-rapl:0", "package-0")
        other = domain(powercap, "intel-rapl:1", "package-1")
        other.unlink() if spoil == "missing" else other.write_text("?")
    clock = Clock()
    counter = EnergyCounter(3, clock=clock, powercap=powercap)
    clock.now = 3600.0
    assert counter.kwh() == pytest.approx(3 * CPU_WORKER_WATTS / 1000)
    assert counter.is_estimate


def test_a_counter_that_is_lost_on_the_way_keeps_what_it_had(tmp_path: Path):
    file = domain(tmp_path, "intel-rapl:0", "package-0")
    clock = Clock()
    counter = EnergyCounter(1, clock=clock, powercap=tmp_path)
    file.write_text("9000000")
    clock.now = 1.0
    before = counter.kwh()
    file.unlink()
    clock.now = 2.0
    assert counter.kwh() == before == pytest.approx(9 / KWH_JOULES)
    assert counter.is_estimate


class FakeNvml:
    """NVML with a counter of millijoules for each GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, **millijoules: int) -> None:
        self.millijoules: dict[Any, int] = dict(millijoules)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu{index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        return name.replace("-", "")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if handle not in self.millijoules:
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(gpu0=1000, gpu1=2000, GPUabc=3000)
    monkeypatch.setitem(energy.__dict__, "import_module", lambda name: fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.mark.parametrize(("shown", "joules"), [(None, 3.0), ("1,0", 3.0), ("GPU-abc", 4.0)])
def test_the_gpus_of_the_workers_are_counted_beside_the_processors(
    tmp_path: Path, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, shown: str | None, joules: float
):
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    file = domain(tmp_path, "intel-rapl:0", "package-0")
    clock = Clock()
    counter = EnergyCounter(2, "cuda", clock, tmp_path)
    nvml.millijoules = {"gpu0": 2000, "gpu1": 4000, "GPUabc": 7000}
    file.write_text("500000")
    clock.now = 1.0
    assert counter.kwh() == pytest.approx((joules + 0.5) / KWH_JOULES)
    assert not counter.is_estimate


def test_a_gpu_that_does_not_count_is_estimated(tmp_path: Path, nvml: FakeNvml):
    nvml.millijoules = {"gpu0": 0}
    file = domain(tmp_path, "intel-rapl:0", "package-0")
    clock = Clock()
    counter = EnergyCounter(2, "cuda", clock, tmp_path)
    file.write_text("1000000")
    clock.now = 10.0
    assert counter.kwh() == pytest.approx((2 * GPU_WORKER_WATTS * 10 + 1) / KWH_JOULES)
    assert counter.is_estimate


def test_without_nvml_a_gpu_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> SimpleNamespace:
        raise ModuleNotFoundError(name)

    monkeypatch.setitem(energy.__dict__, "import_module", missing)
    clock = Clock()
    counter = EnergyCounter(1, "cuda", clock, tmp_path / "none")
    clock.now = 3600.0
    assert counter.kwh() == pytest.approx(estimated_watts(1, "cuda") / 1000)
    assert counter.is_estimate


def test_gpus_are_left_alone_where_training_is_on_processors(tmp_path: Path):
    domain(tmp_path, "intel-rapl:0", "package-0")
    EnergyCounter(1, "cpu", Clock(), tmp_path, gpus=lambda count: pytest.fail("no GPU is used"))
