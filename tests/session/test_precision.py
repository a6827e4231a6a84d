"""Steps in bfloat16 are a choice of the declaration: the same bits wherever they run, and others than in float32."""

import math
from dataclasses import replace

import pytest
import torch

import cerebro
from cerebro.errors import SpecError
from cerebro.execution.profiler import Profiler
from cerebro.plan.cost import Together
from tests.session.test_equivalence import digests

FLOAT32 = (torch.float32, torch.int64)


@pytest.fixture
def experiment(experiment):
    """Four models of nets that torch emulates on any processor, as it does no LSTM."""
    return replace(experiment, search=cerebro.Grid({"net": ["mlp", "cnn"], "lr": [0.01, 0.001]}))


@pytest.fixture
def bf16(monkeypatch):
    """Wherever the tests run, bfloat16 is computed, be it by emulation."""
    monkeypatch.setattr("cerebro.training.devices.bf16_features", lambda: ["emulated"])


def test_bf16_gives_the_same_bits_with_any_engine_in_passes_and_on_replay(experiment, tmp_path, bf16, monkeypatch):
    narrow = replace(experiment, precision="bf16")
    inline = narrow.fit(engine="inline", fuse=False, store=tmp_path / "inline", progress=False)
    monkeypatch.setattr(
        Profiler,
        "run_together",
        lambda self, groups, profiles: {models[0]: Together(len(models), "", 4.0, 4.0) for models in groups},
    )
    local = narrow.fit(workers=2, store=tmp_path / "local", progress=False)
    assert digests(local) == digests(inline)
    assert [row["metrics"] for row in local.leaderboard()] == [row["metrics"] for row in inline.leaderboard()]
    assert {row["badge"] for row in local.leaderboard()} == {"exact"}
    assert local.replay().identical
    assert "precision bf16" in str(local.lineage())


def test_parameters_stay_in_float32_and_only_the_steps_are_others(experiment, tmp_path, bf16):
    results = {
        precision: replace(experiment, precision=precision, name=precision).fit(
            engine="inline", store=tmp_path, progress=False
        )
        for precision in ("float32", "bf16")
    }
    wide, narrow = results["float32"], results["bf16"]
    assert all(tensor.dtype in FLOAT32 for tensor in narrow.load("m001").state_dict().values())
    assert not set(digests(wide).values()) & set(digests(narrow).values())
    losses = [[row["metrics"]["valid"]["loss"] for row in sorted(r.leaderboard(), key=lambda row: row["model"])]
              for r in results.values()]  # fmt: skip
    assert all(math.isclose(one, other, rel_tol=0.05) for one, other in zip(*losses, strict=True))


def test_the_plan_says_what_bf16_gains_and_how_far_it_deviates(experiment, tmp_path, bf16):
    narrow = replace(experiment, precision="bf16")
    plan = narrow.explain(engine="inline", store=tmp_path)
    assert plan.count("bf16, ") == plan.count(" × as fast, deviation ") == 2
    assert "bf16" not in experiment.explain(engine="inline", store=tmp_path)


def test_hardware_that_does_not_compute_in_bf16_is_told_before_anything_runs(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(SpecError, match=r"'bf16' needs a processor with one of amx_bf16, .* none; use 'float32'"):
        replace(experiment, precision="bf16").fit(device="cpu", store=tmp_path, progress=False)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_an_experiment_cannot_go_on_in_another_precision(experiment, tmp_path, bf16):
    experiment.fit(engine="inline", store=tmp_path, progress=False)
    with pytest.raises(cerebro.errors.StoreError, match="precision was 'float32', now it is 'bf16'"):
        replace(experiment, precision="bf16").fit(engine="inline", store=tmp_path, progress=False)
