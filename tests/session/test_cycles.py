"""An experiment on data that grow: a cycle each, with its own leaderboard, lineage and replay."""

import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

import cerebro
from cerebro.errors import SpecError, StoreError
from cerebro.session.examination import examine
from cerebro.storage.dataset import open_dataset
from tests.frozen_nets import build_transfer
from tests.nets import build_any, signals

OPTIONS = {"engine": "inline", "workers": 1, "progress": False}


def more(seed: int = 1) -> dict[str, np.ndarray]:
    """Forty rows like the others, and none of them."""
    random = np.random.RandomState(seed)
    return {
        name: values[:40] + random.randn(*values[:40].shape).astype(values.dtype)
        if values.dtype.kind == "f"
        else values[:40]
        for name, values in signals().items()
    }


@pytest.fixture
def grown(tmp_path) -> tuple[cerebro.Experiment, dict]:
    """Two models of a first cycle, and data that have grown since."""
    path = tmp_path / "signals.shards"
    cerebro.ingest(signals(), path, shards=4, label="label")
    space = {"net": ["mlp"], "lr": [0.01, 0.001]}
    experiment = cerebro.Experiment(
        "signals", path, build_any, cerebro.Grid(space), epochs=2, metric="accuracy", mode="max"
    )
    options = {**OPTIONS, "store": tmp_path / "store"}
    experiment.fit(**options)
    experiment.append(more())
    return experiment, options


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


def test_a_restart_gives_the_bits_of_an_experiment_that_begins_on_the_grown_data(grown, tmp_path):
    experiment, options = grown
    after = experiment.fit(**options)
    assert after.folder.path.name == "signals-cycle-1"
    assert digests(after) == digests(experiment.fit(**{**options, "store": tmp_path / "fresh"}))


def test_the_leaderboard_of_an_earlier_cycle_can_still_be_read(grown):
    experiment, options = grown
    first = digests(experiment.result(options["store"], cycle=0))
    experiment.fit(**options)
    assert digests(experiment.result(options["store"], cycle=0)) == first
    assert digests(experiment.result(options["store"])) != first
    assert experiment.result(options["store"]).folder.path.name == "signals-cycle-1"
    with pytest.raises(StoreError, match=r"cycle 2: .* has the cycles 0 to 1"):
        experiment.result(options["store"], cycle=2)


@pytest.mark.parametrize("models", ["restart", "continue"])
def test_models_of_every_cycle_are_replayed(grown, models):
    experiment, options = grown
    experiment.fit(**options, models=models)
    for cycle in (0, 1):
        result = experiment.result(options["store"], cycle=cycle)
        assert [result.replay(row["model"]).identical for row in result.leaderboard()] == [True, True]
        assert examine(result.folder).findings == ()


def test_models_that_continue_start_from_the_states_they_had(grown):
    experiment, options = grown
    before = digests(experiment.result(options["store"], cycle=0))
    result = experiment.fit(**options, models="continue")
    assert digests(result).keys() == before.keys()
    with closing(result.folder.reader()) as reader:
        first = {row.unit.model: row.parent_digest for row in reversed(reader.units())}
    assert first == before


def test_how_it_runs_changes_no_bit_of_what_continues(grown, tmp_path):
    experiment, options = grown
    shutil.copytree(options["store"], tmp_path / "other")
    inline = digests(experiment.fit(**options, models="continue"))
    local = {"workers": 2, "store": tmp_path / "other", "progress": False}
    assert digests(experiment.fit(**local, models="continue")) == inline


def test_a_unit_depends_on_the_shards_that_its_model_saw(grown):
    experiment, options = grown
    experiment.fit(**options)
    found = []
    for cycle in (0, 1):
        with closing(experiment.result(options["store"], cycle=cycle).folder.reader()) as reader:
            found.append({row.unit_id for row in reader.units()})
    assert found[0].isdisjoint(found[1])


def test_an_experiment_goes_on_in_the_way_it_was_begun(grown):
    experiment, options = grown
    result = experiment.fit(**options, models="continue")
    assert digests(experiment.fit(**options)) == digests(result)
    with pytest.raises(SpecError, match="'restart' was asked for, and 'signals-cycle-1' was begun with 'continue'"):
        experiment.fit(**options, models="restart")


def test_what_cannot_continue_is_refused(grown, tmp_path):
    experiment, options = grown
    with pytest.raises(SpecError, match="'continue' needs an earlier cycle"):
        replace(experiment, name="other").fit(**options, models="continue")
    with pytest.raises(SpecError, match="models: 'again' is not one of restart, continue"):
        experiment.fit(**options, models="again")


def test_only_new_shards_have_new_features(tmp_path):
    path, store = tmp_path / "signals.shards", tmp_path / "store"
    cerebro.ingest(signals(), path, shards=4, label="label")
    experiment = cerebro.Experiment(
        "frozen",
        path,
        build_transfer,
        cerebro.Grid({"lr": [0.01]}),
        epochs=1,
        metric="accuracy",
        mode="max",
    )
    options = {**OPTIONS, "store": store, "features": "materialize"}
    experiment.fit(**options)
    before = {file.name: file.stat().st_mtime_ns for file in (store / ".features").iterdir()}
    dataset = experiment.append(more())
    experiment.fit(**options)
    after = {file.name for file in (store / ".features").iterdir()}
    old = open_dataset(path, dataset.earlier[0])
    added = sum(len(dataset.splits[split]) - len(old.splits[split]) for split in ("train", "valid"))
    assert before.keys() <= after
    assert len(after) - len(before) == added
