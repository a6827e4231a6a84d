"""The engines that train pass the same suite as the simulated one."""

from pathlib import Path

import pytest

from cerebro.engines.inline import InlineEngine
from cerebro.engines.local import LocalEngine
from cerebro.plan.program import Program
from cerebro.testing.engine_conformance import CHECKS, Subject
from tests.nets import build_any

CONFIGS = {
    "m001": {"net": "cnn", "lr": 0.01},
    "m002": {"net": "mlp", "lr": 0.01},
    "m003": {"net": "no such net", "lr": 0.01},
}
ENGINES = {"inline": InlineEngine, "local": LocalEngine}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_conformance(engine: str, check, shards: Path):
    program = Program(build=build_any, data=shards, configs=CONFIGS, seed=0)
    check(Subject(ENGINES[engine], program, ("m001", "m002"), 4, 1, failing_model="m003"))
