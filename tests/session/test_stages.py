"""Models whose stages begin alike are trained once there: with the bits of models trained each for itself."""

from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch

import cerebro
from cerebro.execution.profiler import Profiler
from cerebro.plan.cost import Together
from cerebro.session import connect
from cerebro.training.trainer import Trainer
from tests.faults import killing_once
from tests.nets import cross_entropy, mlp
from tests.session.test_equivalence import digests
from tests.session.test_steering import outcome

EPOCHS, SHARDS = 4, 5
SPACE = {
    "lr": cerebro.stages({1: 0.01, 3: [0.01, 0.003, 0.001], 4: [0.003, 0.0003]}),
    "momentum": [0.9, 0.5],
}


def build(config):
    return cerebro.Learner(
        module=mlp(config.get("width", 16)),
        loss=cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=config["lr"], momentum=config["momentum"]),
        schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def experiment_of(shards, search=None, epochs=EPOCHS, build=build, **more):
    search = search or cerebro.Grid(SPACE)
    return cerebro.Experiment(
        "stages", data=shards, build=build, search=search, epochs=epochs, metric="accuracy", mode="max", **more
    )


def fit(experiment, store, **more):
    return experiment.fit(**{"engine": "inline", "workers": 1, "fuse": False, **more}, store=store, progress=False)


@pytest.fixture
def visits(monkeypatch):
    """The train visits that were really made in this process."""
    made, visit = [], Trainer.visit

    def noted(self, unit, parent, kernel=""):
        made.extend([unit] if unit.kind == "train" else [])
        return visit(self, unit, parent, kernel)

    monkeypatch.setattr(Trainer, "visit", noted)
    return made


@pytest.fixture
def fusing_pays(monkeypatch):
    """The pilot finds that passes pay, however busy this machine is."""
    compared = Profiler.run_together

    def found(self, groups, profiles):
        return {model: Together(t.models, "", 2.0, 2.0) for model, t in compared(self, groups, profiles).items()}

    monkeypatch.setattr(Profiler, "run_together", found)


def test_what_is_shared_is_trained_once_with_the_bits_of_each_alone(shards, tmp_path, visits):
    alone = fit(experiment_of(shards), tmp_path / "alone", fork=False)
    assert len(visits) == 12 * EPOCHS * 4
    visits.clear()
    forked = fit(experiment_of(shards), tmp_path / "forked")
    by_epoch = [sum(unit.epoch == epoch for unit in visits) // 4 for epoch in range(1, EPOCHS + 1)]
    assert by_epoch == [2, 2, 6, 12]
    assert digests(forked) == digests(alone)
    assert len(set(digests(forked).values())) == 12
    assert [row["metrics"] for row in forked.leaderboard()] == [row["metrics"] for row in alone.leaderboard()]
    with closing(forked.folder.reader()) as reader:
        assert len(reader.units()) == len({row.unit for row in reader.units()}) == 12 * EPOCHS * SHARDS


def test_no_number_of_workers_changes_a_bit_with_and_without_fused_passes(shards, tmp_path, fusing_pays):
    experiment = experiment_of(shards)
    alone = digests(fit(experiment, tmp_path / "alone", fork=False))
    for workers, fuse in ((1, True), (2, False), (2, True), (3, True)):
        store = tmp_path / f"{workers}-{fuse}"
        forked = fit(experiment, store, engine="local", workers=workers, fuse=fuse)
        assert digests(forked) == alone
        with closing(forked.folder.reader()) as reader:
            assert not [event for event in reader.events() if event["kind"] == "worker lost"]
    assert forked.replay("m001").identical
    assert all(forked.replay(model).identical for model in ("m004", "m012"))


def test_explain_says_what_is_shared_and_what_it_saves(shards, tmp_path):
    experiment = experiment_of(shards)
    text = experiment.explain(store=tmp_path, workers=1, fuse=False)
    assert "StageFork  12 models share epochs 1-2 as 2 trainings, 3 as 6; else trained 12×" in text
    assert "StageFork" not in experiment.explain(store=tmp_path, workers=1, fuse=False, fork=False)
    forked = experiment.explain(store=tmp_path, workers=1, fuse=False, why=True)
    assert "+ 12 models share epochs 1-2 as 2 trainings, 3 as 6: est" in forked
    assert "- each trained from its first epoch: at least" in forked


def test_a_run_that_is_cut_off_goes_on_with_what_is_shared_and_without_it(shards, tmp_path):
    experiment = experiment_of(shards)
    alone = fit(experiment, tmp_path / "alone", fork=False)
    for share, fork in (("epochs=5", True), ("epochs=14", False), ("epochs=30", True)):
        fit(experiment, tmp_path / "cut", budget=share, fork=fork)
    assert digests(fit(experiment, tmp_path / "cut", budget="epochs=1000")) == digests(alone)


def test_a_worker_that_is_killed_in_a_shared_visit_loses_no_unit_of_it(shards, tmp_path):
    flag = tmp_path / "kill"

    experiment = experiment_of(shards, build=killing_once(build, flag))
    alone = digests(fit(experiment, tmp_path / "alone", fork=False))
    experiment.explain(store=tmp_path / "forked", workers=2)  # so that the pilot survives
    flag.touch()
    forked = fit(experiment, tmp_path / "forked", engine="local", workers=2)
    with closing(forked.folder.reader()) as reader:
        lost = [event for event in reader.events() if event["kind"] == "worker lost"]
        units = reader.units()
    assert len(lost) == 1
    assert len(units) == len({row.unit for row in units}) == 12 * EPOCHS * SHARDS
    assert digests(forked) == alone


def test_a_member_that_is_stopped_and_one_that_is_cloned_leave_the_others_as_they_are(shards, tmp_path):
    experiment = experiment_of(shards)
    alone = digests(fit(experiment, tmp_path / "alone", fork=False))
    found = {}
    for fork in (True, False):
        store = tmp_path / str(fork)
        fit(experiment, store, budget="epochs=12", fork=fork)  # all models are through with epoch 1
        handle = connect("stages", store)
        handle.stop("m002")
        handle.clone("m003", **{"lr.@4": 0.1})
        handle.clone("m005", warm=False, **{"lr.@3": 0.02})
        result = fit(experiment, store, budget="epochs=1000", fork=fork)
        found[fork] = digests(result)
        assert all(result.replay(model).identical for model in ("m002", "m013", "m014"))
    assert found[True] == found[False]
    assert {model: digest for model, digest in found[True].items() if model in alone and model != "m002"} == {
        model: digest for model, digest in alone.items() if model != "m002"
    }


def test_a_search_decides_the_same_on_shared_stages(shards, tmp_path, visits):
    experiment = experiment_of(shards, cerebro.ASHA(SPACE, models=9, max_epochs=4, eta=2, lanes=4))
    alone = fit(experiment, tmp_path / "alone", workers=2, fork=False)
    made = len(visits)
    visits.clear()
    forked = fit(experiment, tmp_path / "forked", workers=2)
    assert len(visits) < made
    assert outcome(forked) == outcome(alone)


def test_stages_are_a_schedule_written_otherwise(shards, tmp_path):
    """Powers of two, so that the rates of torch's schedule are the same floats."""

    def scheduled(config):
        steps = 4 * 3  # of 280 rows in 4 shards, in batches of 32
        return replace(
            build({**config, "lr": config["first"]}),
            schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda n: 0.25 if n >= steps * 2 else 1
            ),
        )

    def staged(config):
        return replace(build(config), schedule=None)

    space = {"lr": cerebro.stages({1: 0.125, 3: 0.03125}), "momentum": 0.9}
    one = fit(experiment_of(shards, cerebro.Grid(space), build=staged), tmp_path / "staged")
    other = experiment_of(shards, cerebro.Grid({"first": 0.125, "momentum": 0.9}), build=scheduled)
    states = [result.load("m001").state_dict() for result in (one, fit(other, tmp_path / "scheduled"))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_stage_that_changes_what_is_trained_fails_before_it_is_trained(shards, tmp_path, visits):
    space = {"lr": 0.01, "momentum": 0.9, "width": cerebro.stages({1: 16, 3: [16, 8]})}
    result = fit(experiment_of(shards, cerebro.Grid(space)), tmp_path)
    rows = {row["model"]: row for row in result.leaderboard()}
    assert (rows["m001"]["status"], rows["m002"]["status"], rows["m002"]["epochs"]) == ("finished", "failed", 0)
    assert (
        "stage @1 has 1.weight (16, 60), stage @3 would have (8, 60): a stage may change rates" in rows["m002"]["error"]
    )
    assert {unit.model for unit in visits} == {"m001"}


def test_a_stage_beyond_the_last_epoch_is_refused(shards, tmp_path):
    with pytest.raises(cerebro.SpecError, match="a stage begins with epoch 4, and epochs=3: no model would come to it"):
        fit(experiment_of(shards, epochs=3), tmp_path)


def test_independent_models_and_those_in_a_latin_square_share_nothing(shards, tmp_path, visits):
    for name, more in {"own": {"independent": True}, "latin": {"order": "latin"}}.items():
        fit(experiment_of(shards, **more), tmp_path / name)
        assert len(visits) == 12 * EPOCHS * 4
        visits.clear()
