"""An experiment in a file, for child processes to run and to be killed."""

from pathlib import Path

import pytest

from cerebro.testing.faults import Subject, digests, run_inline

FILE = """
from pathlib import Path
import cerebro
from tests.nets import build_any

experiment = cerebro.Experiment(
    "signals", data=Path({shards!r}), build=build_any,
    search=cerebro.Grid({{"net": ["mlp", "cnn"], "lr": [0.01, 0.001]}}),
    epochs=2, metric="accuracy", mode="max",
)
"""


@pytest.fixture(scope="session")
def declared(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of two architectures, two epochs: 40 units."""
    file = tmp_path_factory.mktemp("declared") / "crash_signals.py"
    file.write_text(FILE.format(shards=str(shards)))
    return file


@pytest.fixture
def subject(declared: Path, tmp_path: Path) -> Subject:
    return Subject(declared, "signals", tmp_path / "store")


@pytest.fixture(scope="session")
def undisturbed(declared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str | None]]:
    """What every disturbed run must end in."""
    store = tmp_path_factory.mktemp("undisturbed")
    assert run_inline(Subject(declared, "signals", store)) == 0
    return digests(store, "signals")
