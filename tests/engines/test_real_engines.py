"""The engines that train pass the same suite as the simulated one."""

from pathlib import Path

import pytest

from cerebro.engines.inline import InlineEngine
from cerebro.engines.local import LocalEngine
from cerebro.plan.program import Member, Program
from cerebro.testing.engine_conformance import CHECKS, Subject
from tests.nets import build_any

MEMBERS = {
    "m001": Member({"net": "cnn", "lr": 0.01}),
    "m002": Member({"net": "mlp", "lr": 0.01}),
    "m003": Member({"net": "no such net", "lr": 0.01}),
}
ENGINES = {"inline": InlineEngine, "local": LocalEngine}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_conformance(engine: str, check, shards: Path):
    program = Program(build=build_any, data=shards, seed=0, members=MEMBERS)
    check(Subject(ENGINES[engine], program, ("m001", "m002"), 4, 1, failing_model="m003"))
