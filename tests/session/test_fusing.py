"""Models that are trained in one pass end with the bits of models that are trained alone, whatever happens to them."""

from contextlib import closing
from functools import partial

import pytest
import torch

import cerebro
from cerebro.execution import drift
from cerebro.execution.drift import Drift
from cerebro.execution.profiler import Profiler
from cerebro.plan.cost import Together
from cerebro.plan.fusing import Fused, Fusing
from cerebro.session.planning import planned_text
from cerebro.training.fused import linear
from cerebro.training.fused.trials import Findings
from cerebro.training.trainer import Trainer
from tests.faults import killing_once
from tests.frozen_nets import build_transfer
from tests.nets import cross_entropy, mlp
from tests.session.test_equivalence import digests
from tests.session.test_steering import outcome

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]


def build(config):
    if config["lr"] == "not a number":
        raise ValueError("no such rate")
    return cerebro.Learner(
        module=mlp(),
        loss=cross_entropy,
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config["l2"]),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def experiment_of(shards, search, epochs=2, build=build, **more):
    return cerebro.Experiment(
        "fused", data=shards, build=build, search=search, epochs=epochs, metric="accuracy", mode="max", **more
    )


@pytest.fixture(autouse=True)
def quick_together(monkeypatch):
    """The pilot finds that passes pay, however busy this machine is, and the run finds nothing else."""
    monkeypatch.setattr(drift, "_ENOUGH", 1000)
    compared = Profiler.run_together

    def found(self, groups, profiles):
        tried = compared(self, groups, profiles)
        return {model: Together(t.models, "", 4.0, 4.0) for model, t in tried.items()}

    monkeypatch.setattr(Profiler, "run_together", found)


@pytest.fixture
def passes(monkeypatch):
    """The models of each pass that was made in this process."""
    made, together = list[tuple[str, ...]](), Trainer.visit_together

    def noted(self, units, parents, kernel=""):
        visits = together(self, units, parents, kernel)
        if visits is not None:
            made.append(tuple(unit.model for unit in units))
        return visits

    monkeypatch.setattr(Trainer, "visit_together", noted)
    return made


GRID = cerebro.Grid({"lr": RATES, "l2": [0.0, 0.1]})


def test_passes_change_no_bit_with_any_number_of_workers(shards, tmp_path):
    experiment = experiment_of(shards, GRID)
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    plan = experiment.explain(store=tmp_path / "plan", workers=2)
    assert "Fuse   10 × Sequential {lr, l2}" in plan
    assert "one pass for 5" in plan
    for workers in (1, 2, 3):
        fused = experiment.fit(workers=workers, store=tmp_path / str(workers), progress=False)
        assert digests(fused) == digests(alone)
        assert [row["metrics"] for row in fused.leaderboard()] == [row["metrics"] for row in alone.leaderboard()]
        with closing(fused.folder.reader()) as reader:
            assert not [event for event in reader.events() if event["kind"] == "worker lost"]
    assert fused.replay("m003").identical


def test_a_later_run_makes_no_trials_of_its_own(shards, tmp_path, monkeypatch):
    experiment = experiment_of(shards, GRID)
    experiment.explain(store=tmp_path, workers=1)  # the pilot, in processes of its own
    tried = list[linear.Case]()
    findings = Findings(lambda case: tried.append(case), linear.Batched)
    monkeypatch.setattr(linear, "FINDINGS", findings)
    fused = experiment.fit(engine="inline", workers=1, store=tmp_path, progress=False)
    assert any(findings.told().values())
    assert {case.input[0] for case in tried}.isdisjoint({32})
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    assert digests(fused) == digests(alone)


@pytest.mark.parametrize("features", ["share", "materialize", "recompute"])
def test_heads_on_one_frozen_backbone_make_passes_however_its_columns_are_come_by(shards, tmp_path, passes, features):
    experiment = experiment_of(shards, cerebro.Grid({"lr": RATES}), build=build_transfer)
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    fused = experiment.fit(engine="inline", workers=1, features=features, store=tmp_path / "fused", progress=False)
    assert max(map(len, passes)) == len(RATES)
    assert digests(fused) == digests(alone)
    assert fused.replay("m003").identical


def test_a_run_that_is_cut_off_goes_on_with_passes_and_without_them(shards, tmp_path, passes):
    experiment = experiment_of(shards, GRID)
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    assert passes == []
    for share, fuse in (("epochs=5", True), ("epochs=12", False)):
        experiment.fit(engine="inline", budget=share, fuse=fuse, store=tmp_path / "cut", progress=False)
    result = experiment.fit(engine="inline", budget="epochs=1000", store=tmp_path / "cut", progress=False)
    assert max(map(len, passes)) > 1
    assert digests(result) == digests(alone)


@pytest.mark.parametrize(
    "search",
    [
        lambda: cerebro.ASHA({"lr": RATES, "l2": [0.0, 0.1]}, models=9, max_epochs=4, eta=2, lanes=4),
        lambda: cerebro.PBT({"lr": cerebro.loguniform(1e-3, 1e-1), "l2": [0.0, 0.1]}, population=4, interval=1),
    ],
    ids=["asha", "pbt"],
)
def test_a_search_decides_the_same_with_passes(shards, tmp_path, passes, search):
    experiment = experiment_of(shards, search(), epochs=4)
    alone = experiment.fit(engine="inline", workers=2, fuse=False, store=tmp_path / "alone", progress=False)
    fused = experiment.fit(engine="inline", workers=2, store=tmp_path / "fused", progress=False)
    assert max(map(len, passes)) > 1
    assert outcome(fused) == outcome(alone)


def test_a_model_that_diverges_leaves_its_fellows_as_they_are(shards, tmp_path, passes):
    def diverging(config):
        learner = build(config)
        scale = float("inf") if config["lr"] == RATES[2] else 1.0
        with torch.no_grad():
            learner.module[1].weight.mul_(scale)
        return learner

    experiment = experiment_of(shards, cerebro.Grid({"lr": RATES, "l2": [0.0]}), build=diverging)
    alone = experiment.fit(engine="inline", workers=1, fuse=False, store=tmp_path / "alone", progress=False)
    fused = experiment.fit(engine="inline", workers=1, store=tmp_path / "fused", progress=False)
    states = {row["model"]: (row["status"], row["state_digest"]) for row in alone.leaderboard()}
    assert {row["model"]: (row["status"], row["state_digest"]) for row in fused.leaderboard()} == states
    assert [status for status, _ in states.values()].count("diverged") == 1
    assert [len(models) for models in passes] == [5, *[4] * (len(passes) - 1)]


def test_a_worker_that_is_killed_in_a_pass_loses_no_unit_of_it(shards, tmp_path):
    flag = tmp_path / "kill"

    experiment = experiment_of(shards, GRID, build=killing_once(build, flag))
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    experiment.explain(store=tmp_path / "fused", workers=2)  # so that the pilot survives
    flag.touch()
    fused = experiment.fit(workers=2, store=tmp_path / "fused", progress=False)
    with closing(fused.folder.reader()) as reader:
        lost = [event["body"] for event in reader.events() if event["kind"] == "worker lost"]
        units = reader.units()
    assert len(lost) == 1
    assert len(units) == len({unit.unit for unit in units}) == 10 * 2 * 5
    assert digests(fused) == digests(alone)


def test_independent_models_and_those_in_a_latin_square_go_alone(shards, tmp_path, passes):
    for name, more in {"own": {"independent": True}, "latin": {"order": "latin"}}.items():
        experiment_of(shards, GRID, epochs=1, **more).fit(engine="inline", store=tmp_path / name, progress=False)
    assert passes == []


def test_passes_that_lose_are_parted_while_the_run_goes_on(shards, tmp_path, monkeypatch, passes):
    heard = Drift.heard
    monkeypatch.setattr(Drift, "heard", lambda self, event, kind, seconds: heard(self, event, kind, seconds / 1e6))
    monkeypatch.setattr(drift, "_ENOUGH", 1)
    experiment = experiment_of(shards, cerebro.Grid({"lr": RATES, "l2": [0.0]}), epochs=2)
    alone = experiment.fit(engine="inline", fuse=False, store=tmp_path / "alone", progress=False)
    result = experiment.fit(engine="inline", store=tmp_path, progress=False)
    assert digests(result) == digests(alone)
    assert passes
    with closing(result.folder.reader()) as reader:
        replanned = [event["body"]["why"] for event in reader.events() if event["kind"] == "replanned"]
        assert len(reader.units()) == len(RATES) * 2 * 5
    assert len(replanned) == 2
    assert (replanned[0]["way"], replanned[0]["models"]) == ("alone", len(RATES))
    told = [line for line in planned_text(result.folder).splitlines() if line.startswith("replanned: 5 ")]
    assert "go on alone: in a pass a visit took" in told[0]
    assert "by itself" in told[1].rpartition(" ×, ")[2]


def test_kinds_of_models_are_parted_and_joined_each_by_itself():
    planned = Fusing(by_signature={kind: Fused(1, Together(2, "", 2.0, 2.0)) for kind in ("mlp", "cnn")})
    assert planned.without({"mlp"}).by_signature.keys() == {"cnn"}
    assert planned.without(frozenset()) == planned
