"""With `exact=False` models may get other bits where that pays: it is recorded, and replay does the same again."""

from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cerebro
from cerebro.execution.profiler import Profiler
from cerebro.training.state import read_tensors
from tests.faults import killing_once
from tests.nets import build_cnn
from tests.session.test_equivalence import digests

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The pilot finds that inexact kernels pay, however busy this machine is."""
    compared = Profiler.run_together

    def found(self, groups, profiles):
        tried = compared(self, groups, profiles)
        return {
            m: replace(t, why_not="", train_gain=1.0, stacked_train_gain=4.0, stacked_valid_gain=4.0)
            for m, t in tried.items()
        }

    monkeypatch.setattr(Profiler, "run_together", found)


def stacked_of(shards, build=build_cnn, **more):
    fields = {"epochs": 2, "metric": "accuracy", "mode": "max", "exact": False, **more}
    return cerebro.Experiment("inexact", data=shards, build=build, search=cerebro.Grid({"lr": RATES}), **fields)


def kernels(result):
    with closing(result.folder.reader()) as reader:
        return {row.unit: row.kernel for row in reader.units()}


def test_a_stacked_pass_is_recorded_and_done_again_by_replay(shards, tmp_path):
    experiment = stacked_of(shards)
    plan = experiment.explain(engine="inline", workers=1, store=tmp_path)
    assert "one stacked pass for 5, 4.0 × as fast, deviation " in plan
    result = experiment.fit(engine="inline", workers=1, store=tmp_path, progress=False)
    assert set(kernels(result).values()) == {"stacked m001 m002 m003 m004 m005"}
    assert {row["badge"] for row in result.leaderboard()} == {"best effort"}
    lineage = result.lineage("m003")
    assert str(lineage).count("stacked m001 m002 m003 m004 m005") == len(lineage.units) == 10
    (told,) = [event["body"] for event in lineage.history if event["kind"] == "inexact"]
    assert told["kernel"] == "stacked"
    assert 0 < told["deviation"] < 1e-2
    assert [result.replay(model).identical for model in ("m001", "m003", "m005")] == [True] * 3


def test_the_same_group_gives_the_same_bits_in_processes_of_their_own(shards, tmp_path):
    results = [
        stacked_of(shards).fit(engine=engine, workers=2, store=tmp_path / engine, progress=False)
        for engine in ("inline", "local")
    ]
    assert len(set(kernels(results[0]).values())) == 2
    assert kernels(results[0]) == kernels(results[1])
    assert digests(results[0]) == digests(results[1])


def test_without_leave_no_kernel_but_exact_ones_is_tried(shards, tmp_path, monkeypatch):
    monkeypatch.undo()
    experiment = stacked_of(shards, exact=True)
    result = experiment.fit(engine="inline", workers=1, store=tmp_path, progress=False)
    assert set(kernels(result).values()) == {""}
    assert {row["badge"] for row in result.leaderboard()} == {"exact"}
    with closing(result.folder.reader()) as reader:
        assert "inexact" not in {event["kind"] for event in reader.events()}


def test_who_stops_or_diverges_leaves_a_pass_that_replay_can_follow(shards, tmp_path):
    def diverging(config):
        learner = build_cnn(config)
        scale = float("nan") if config["lr"] == RATES[1] else 1.0
        with torch.no_grad():
            learner.module[0].weight.mul_(scale)
        return learner

    experiment = stacked_of(shards, build=diverging)
    experiment.fit(engine="inline", workers=1, budget="epochs=5", store=tmp_path, progress=False)
    result = experiment.fit(engine="inline", workers=1, budget="epochs=99", store=tmp_path, progress=False)
    statuses = {row["model"]: row["status"] for row in result.leaderboard()}
    assert statuses == {"m001": "finished", "m002": "diverged", **dict.fromkeys(["m003", "m004", "m005"], "finished")}
    groups = set(kernels(result).values())
    assert groups == {"stacked m001 m002 m003 m004 m005", "stacked m001 m003 m004 m005"}
    assert result.replay("m004").identical


def test_after_a_kill_all_units_are_made_and_replay_follows(shards, tmp_path):
    flag = tmp_path / "kill"

    experiment = stacked_of(shards, build=killing_once(build_cnn, flag))
    experiment.explain(store=tmp_path / "store", workers=1)  # so that the pilot survives
    flag.touch()
    result = experiment.fit(workers=1, store=tmp_path / "store", progress=False)
    found = kernels(result)
    assert len(found) == 5 * 2 * 5
    assert "" in found.values()  # a unit that a worker died on is made alone
    assert [result.replay(model).identical for model in ("m001", "m005")] == [True, True]


def test_a_result_of_the_same_group_that_differs_is_a_violation(shards, tmp_path):
    result = stacked_of(shards).fit(engine="inline", workers=1, store=tmp_path, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cerebro.training.fused.stacked.RULES", {})  # other kernels than those that made it
        replay = result.replay("m002")
    assert not replay.identical
    assert replay.difference.what == "the state"


def images(tmp_path):
    random = np.random.RandomState(0)
    label = random.randint(0, 3, 120)
    pixels = random.randn(120, 3, 8, 8).astype(np.float32) + label[:, None, None, None].astype(np.float32)
    return cerebro.ingest({"x": pixels, "y": label}, tmp_path / "images.shards", shards=2, label="y")


def build_image(config):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    return cerebro.Learner(
        module=net,
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["y"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=16,
    )


def test_channels_last_is_kept_by_states_hops_and_replay(tmp_path, monkeypatch):
    monkeypatch.setattr("cerebro.training.trainer.compared_alone", lambda *args: {"gain": 2.0, "deviation": 1e-7})
    data, fields = images(tmp_path), {"epochs": 2, "metric": "loss", "mode": "min", "exact": False}
    experiment = cerebro.Experiment(
        "layout", getattr(data, "path", data), build_image, cerebro.Grid({"lr": [0.01, 0.001]}), **fields
    )
    plan = experiment.explain(engine="inline", store=tmp_path)
    assert "channels_last, 2.00 × as fast, deviation 1e-07" in plan
    inline = experiment.fit(engine="inline", store=tmp_path, fuse=False, progress=False)
    local = replace(experiment, name="hops").fit(workers=2, store=tmp_path, fuse=False, progress=False)
    assert set(kernels(local).values()) == {"channels_last"}
    assert digests(inline) == digests(local)
    state = read_tensors(memoryview(local.folder.checkpoints.read(local.best["state_digest"])))
    for name in ("module/4.weight", "optimizer/4/exp_avg"):
        assert state[name].is_contiguous(memory_format=torch.channels_last), name
    assert local.replay("m002").identical
    assert "channels_last" in str(local.lineage("m002"))


def test_who_joins_later_goes_along_and_its_lineage_says_so(shards, tmp_path):
    search = cerebro.PBT({"lr": cerebro.loguniform(1e-3, 1e-1)}, population=4, interval=1)
    experiment = replace(stacked_of(shards), search=search, epochs=3)
    result = experiment.fit(engine="inline", workers=1, store=tmp_path, progress=False)
    newest = max(row["model"] for row in result.leaderboard(each=True))
    assert newest > "m004"
    assert [event["body"]["kernel"] for event in result.lineage(newest).history if event["kind"] == "inexact"] == [
        "stacked"
    ]
    assert result.replay(newest).identical
