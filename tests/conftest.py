"""Fixtures for tests that train on a small dataset."""

from pathlib import Path

import pytest

import cerebro
from tests.nets import build_any, signals

SPACE = {"net": ["mlp", "cnn", "lstm"], "lr": [0.01, 0.001]}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 280 train rows in 4 shards, 60 valid and 60 test rows."""
    destination = tmp_path_factory.mktemp("data") / "signals.shards"
    cerebro.ingest(signals(), destination, shards=4, label="label")
    return destination


@pytest.fixture
def experiment(shards: Path) -> cerebro.Experiment:
    """Six models of three architectures, two epochs."""
    return cerebro.Experiment(
        "signals", data=shards, build=build_any, search=cerebro.Grid(SPACE), epochs=2, metric="accuracy", mode="max"
    )
