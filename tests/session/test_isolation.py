"""A config that goes wrong ends alone, and says why; the others give the same bits as without it."""

from contextlib import closing

import pytest

from tests.faults import FAULTS, NOT_IN_PROCESS, SOUND, experiment


def ends(result) -> dict[str, dict]:
    """The row of each model in the catalog, by what its config names."""
    with closing(result.folder.reader()) as reader:
        return {row["config"]["code"]: row for row in reader.models()}


@pytest.fixture(scope="module")
def sound(shards, tmp_path_factory) -> dict[str, str]:
    """The digests of the sound models in a run of their own."""
    store = tmp_path_factory.mktemp("sound")
    rows = ends(experiment("sound", shards, SOUND).fit(engine="inline", store=store, progress=False))
    assert {row["status"] for row in rows.values()} == {"finished"}
    return {name: row["state_digest"] for name, row in rows.items()}


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_every_fault_is_its_own_models_alone(engine, shards, sound, tmp_path):
    # The faulty ones come first: where architectures are alike, the pilot would time one of them for all.
    faults = [name for name in FAULTS if engine == "local" or name not in NOT_IN_PROCESS]
    result = experiment("faulty", shards, (*faults, *SOUND)).fit(
        engine=engine, workers=2, store=tmp_path, progress=False
    )
    rows = ends(result)
    assert {name: rows[name]["state_digest"] for name in SOUND} == sound
    board = {row["config"]["code"]: row for row in result.leaderboard()}
    for name in faults:
        fault, row, shown = FAULTS[name], rows[name], board[name]
        assert (row["status"], row["epochs"]) == (fault.status, fault.epochs), (name, row["error"])
        assert row["error"].startswith(fault.error), (name, row["error"])
        assert bool(row["traceback"]) != fault.kills, (name, row["traceback"])
        assert shown["error"] == row["error"]
    assert [row["config"]["code"] in SOUND for row in result.leaderboard()] == [True] * len(SOUND) + [False] * len(
        faults
    )


def test_there_are_twenty_faults_and_more():
    assert len(FAULTS) >= 20
