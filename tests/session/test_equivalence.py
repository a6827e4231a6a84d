"""The law of physical independence: where and how a unit ran changes no bit."""

from dataclasses import replace

import pytest

WAYS = {
    "inline": {"engine": "inline", "workers": 1},
    "one worker": {"engine": "local", "workers": 1},
    "two workers": {"engine": "local", "workers": 2},
    "three workers, random policy": {"engine": "local", "workers": 3, "policy": "random"},
}


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


@pytest.mark.parametrize("order", ["same", "latin"])
def test_every_way_of_running_gives_the_same_bits(experiment, order, tmp_path):
    declared = replace(experiment, order=order)
    found = {
        name: digests(declared.fit(**way, store=tmp_path / str(index), progress=False))
        for index, (name, way) in enumerate(WAYS.items())
    }
    assert len(set(found["inline"].values())) == 6
    assert all(digests == found["inline"] for digests in found.values())


def test_every_way_of_running_gives_the_same_metrics(experiment, tmp_path):
    inline = experiment.fit(engine="inline", store=tmp_path / "a", progress=False).leaderboard()
    local = experiment.fit(workers=3, store=tmp_path / "b", progress=False).leaderboard()
    assert [(row["model"], row["metrics"]) for row in inline] == [(row["model"], row["metrics"]) for row in local]


def test_a_free_order_is_replayed_from_the_log(experiment, tmp_path):
    result = replace(experiment, order="free").fit(workers=3, policy="random", store=tmp_path, progress=False)
    assert [result.replay(row["model"]).identical for row in result.leaderboard()] == [True] * 6
    assert {row["badge"] for row in result.leaderboard()} == {"recorded"}


def test_the_order_is_part_of_the_answer(experiment, tmp_path):
    same = digests(experiment.fit(store=tmp_path / "same", progress=False))
    latin = digests(replace(experiment, order="latin").fit(store=tmp_path / "latin", progress=False))
    assert same["m001"] == latin["m001"]  # the first model's rotation is zero
    assert same["m002"] != latin["m002"]


def test_independent_streams_give_each_model_its_own_batches(experiment, tmp_path):
    shared = digests(experiment.fit(store=tmp_path / "shared", progress=False))
    own = digests(replace(experiment, independent=True).fit(store=tmp_path / "own", progress=False))
    assert set(shared.values()).isdisjoint(own.values())
