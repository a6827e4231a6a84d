"""On a GPU, too, nothing that the planner does changes a bit, and every model is trained again to the same bits."""

from dataclasses import replace

import pytest
import torch

import cerebro
from tests.session.test_equivalence import digests

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

RATES = [0.001, 0.002, 0.003, 0.005, 0.01, 0.02]


@pytest.mark.parametrize("net", ["mlp", "cnn", "lstm"])
def test_the_bits_are_the_same_in_passes_alone_inline_and_in_a_replay(experiment, net, tmp_path):
    experiment = replace(experiment, search=cerebro.Grid({"net": [net], "lr": RATES}))
    plan = experiment.explain(device="cuda", store=tmp_path, why=True)
    assert "pass for 6" in plan, plan
    result = experiment.fit(device="cuda", store=tmp_path, progress=False)
    alone = experiment.fit(device="cuda", store=tmp_path / "alone", fuse=False, progress=False)
    inline = experiment.fit(device="cuda", engine="inline", store=tmp_path / "inline", progress=False)
    assert digests(result) == digests(alone) == digests(inline)
    assert [result.replay(model).identical for model in digests(result)] == [True] * 6
