"""Which hyper-parameters matter: on catalogs whose metrics are known."""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import cerebro
from cerebro.ids import model_id
from cerebro.session.result import Result
from cerebro.spec.sampling import sample
from cerebro.storage.catalog import Catalog
from cerebro.storage.store import ExperimentFolder

pytest.importorskip("optuna")
SPACE = {
    "lr": cerebro.loguniform(1e-5, 1e-1),
    "width": [16, 32, 64],
    "fixed": 7,
    "bias": [True, False],
    "net": {"layers": cerebro.randint(1, 5), "kind": ["mlp", "cnn"]},
}
Score = Callable[[Mapping[str, Any]], float]


def result_of(store: Path, score: Score, space: Mapping[str, Any] = SPACE, models: int = 60, epochs: int = 2) -> Result:
    """The result of an experiment of two epochs in which each config came to its score; some came to one epoch only."""
    folder = ExperimentFolder(store / "known")
    folder.path.mkdir(mode=0o700, parents=True)
    configs = {model_id(number): sample(space, (0, "search", number)) for number in range(models)}
    row = {"name": "known", "spec": {}, "plan_id": "p", "metric": "accuracy", "mode": "max", "epochs": 2}
    members = {model: {"config": config, "repeat": 0, "ancestor": None} for model, config in configs.items()}
    Catalog.create(folder.path, {**row, "fingerprint": {}, "data": "nowhere", "source": None}, members)
    with closing(Catalog(folder.path)) as catalog, catalog.transaction():
        for number, (model, config) in enumerate(configs.items()):
            reached = epochs if number % 5 else 1
            catalog.set_model(model, status="paused" if reached == 1 else "finished", epochs=reached)
            # What is paused would say the opposite.
            catalog.add_metrics(model, reached, "valid", {"accuracy": score(config) * (1 if reached == 2 else -9)})
    return Result(folder)


def test_the_dimension_that_decides_has_the_largest_share(tmp_path):
    found = result_of(tmp_path, lambda config: config["net"]["layers"]).importance()
    assert next(iter(found)) == "net.layers"
    assert found["net.layers"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert found.keys() == {"lr", "width", "bias", "net.layers", "net.kind"}


def test_a_scale_changes_nothing(tmp_path):
    unit = cerebro.uniform(0, 1)
    powers, exponents = ({"x": x, "y": unit} for x in (cerebro.loguniform(1e-6, 1.0), cerebro.uniform(-6, 0)))
    found = result_of(
        tmp_path / "log", lambda config: round(math.log10(config["x"]), 6) + config["y"], powers
    ).importance()
    again = result_of(tmp_path / "linear", lambda config: round(config["x"], 6) + config["y"], exponents).importance()
    assert found == pytest.approx(again)


def test_the_answer_is_the_same_each_time(tmp_path):
    result = result_of(tmp_path, lambda config: config["lr"] + config["width"])
    assert result.importance() == result.importance()


def test_dimensions_that_only_some_models_have_are_left_out(tmp_path):
    space = {"net": [{"drop": cerebro.uniform(0, 1), "kind": "mlp"}, {"kind": "cnn", "kernel": [3, 5]}], "lr": [1, 2]}
    found = result_of(tmp_path, lambda config: config["lr"], space).importance()
    assert found.keys() == {"net.kind", "lr"}


@pytest.mark.parametrize(
    ("score", "more", "complaint"),
    [
        (lambda config: config["lr"], {"models": 4}, "3 models have come to epoch 2 with a value, and 4 are needed"),
        (lambda config: 0.5, {}, "all have the same value"),
        (lambda config: config["lr"], {"epochs": 1}, "0 models have come to epoch 2"),
    ],
)
def test_what_cannot_be_said_is_not_said(tmp_path, score: Score, more: dict[str, Any], complaint: str):
    with pytest.raises(cerebro.StoreError, match=complaint):
        result_of(tmp_path, score, **more).importance()


@pytest.mark.parametrize(("missing", "complaint"), [("optuna", "Optuna is not"), ("sklearn", "scikit-learn is not")])
def test_without_a_package_the_way_out_is_named(tmp_path, monkeypatch, missing: str, complaint: str):
    result = result_of(tmp_path, lambda config: config["lr"])
    for module in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(cerebro.SpecError, match=rf"{complaint} installed: pip install 'cerebro-select\[optuna\]'"):
        result.importance()
