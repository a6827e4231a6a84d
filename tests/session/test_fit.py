"""What `fit` promises: it resumes, it isolates failures, and what it reports can be checked."""

import functools
import json
import os
import signal
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import cerebro
from cerebro.storage.catalog import event_hash
from tests.nets import build_mlp, mlp, signals


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


def rows_of(result, sql: str) -> list[dict]:
    with closing(result.folder.reader()) as reader:
        return reader.query(sql)


def interrupt_when(counter, limit: int, loss, module, batch):
    """Presses Ctrl-C in the driver after some batches."""
    counter.append(1)
    if len(counter) == limit:
        os.kill(os.getpid(), signal.SIGINT)
    return loss(module, batch)


def pilot(experiment, presses: list[int], store) -> None:
    """Its pilot, in which nobody presses: how many batches that takes depends on how quick they are."""
    presses.extend([1] * 1000)
    experiment.explain(engine="inline", store=store)
    presses.clear()


def test_ctrl_c_ends_after_the_unit_and_fit_goes_on_from_there(experiment, shards, tmp_path):
    expected = digests(experiment.fit(engine="inline", store=tmp_path / "undisturbed", progress=False))
    presses: list[int] = []

    def build(config):
        learner = experiment.build(config)
        return replace(learner, loss=partial(interrupt_when, presses, 100, learner.loss))

    disturbed = replace(experiment, build=build)
    pilot(disturbed, presses, tmp_path / "disturbed")
    with pytest.raises(KeyboardInterrupt, match="fit\\(\\) goes on from here"):
        disturbed.fit(engine="inline", store=tmp_path / "disturbed", progress=False)
    done = rows_of(disturbed.result(tmp_path / "disturbed"), "SELECT count(*) AS n FROM units")[0]["n"]
    assert 0 < done < 60
    result = disturbed.fit(engine="inline", store=tmp_path / "disturbed", progress=False)
    assert digests(result) == expected
    assert rows_of(result, "SELECT count(*) AS n FROM units") == [{"n": 60}]


def test_a_finished_experiment_returns_at_once(experiment, tmp_path, monkeypatch):
    first = experiment.fit(engine="inline", store=tmp_path, progress=False)
    monkeypatch.setattr("cerebro.session.experiment.ENGINES", {"inline": pytest.fail})
    again = experiment.fit(engine="inline", store=tmp_path, progress=False)
    assert again.leaderboard() == first.leaderboard()


def test_a_missing_checkpoint_only_costs_the_work_again(experiment, tmp_path):
    """Units after the last durable state are forgotten, and run again with the same bits."""
    presses: list[int] = []

    def build(config):
        learner = experiment.build(config)
        return replace(learner, loss=partial(interrupt_when, presses, 60, learner.loss))

    disturbed = replace(experiment, build=build)
    pilot(disturbed, presses, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        disturbed.fit(engine="inline", store=tmp_path / "a", progress=False)
    for state in (tmp_path / "a" / "signals" / "states").iterdir():
        state.unlink()
    result = disturbed.fit(engine="inline", store=tmp_path / "a", progress=False)
    expected = experiment.fit(engine="inline", store=tmp_path / "b", progress=False)
    assert digests(result) == digests(expected)


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_config_that_fails_fails_alone(shards, tmp_path, engine):
    def build(config):
        learner = build_mlp(config)
        match config["fault"]:
            case "build":
                raise ValueError("no such layer")
            case "diverges":
                return replace(learner, loss=lambda module, batch: module(batch["signal"]).sum() * float("nan"))
            case "exits":
                return replace(learner, loss=lambda module, batch: exit(3))
        return learner

    space = {"lr": [0.01], "fault": ["none", "build", "diverges", "exits"], "width": [8, 16]}
    faulty = cerebro.Experiment(
        "faulty", data=shards, build=build, search=cerebro.Grid(space), epochs=1, metric="accuracy", mode="max"
    )
    healthy = replace(faulty, search=cerebro.Grid({**space, "fault": ["none"]}))
    if engine == "inline":
        faulty = replace(faulty, search=cerebro.Grid({**space, "fault": ["none", "build", "diverges"]}))
    board = faulty.fit(engine=engine, workers=2, store=tmp_path / "a", progress=False).leaderboard()
    alone = healthy.fit(engine=engine, store=tmp_path / "b", progress=False).leaderboard()
    assert [row["state_digest"] for row in board[:2]] == [row["state_digest"] for row in alone]
    ends = {row["config"]["fault"]: (row["status"], row["error"].partition(":")[0]) for row in board[2:]}
    expected = {"build": ("failed", "ValueError"), "diverges": ("diverged", "DivergedError")}
    assert ends == expected | ({"exits": ("failed", "SystemExit")} if engine == "local" else {})


def test_the_best_is_the_best_in_both_modes(experiment, tmp_path):
    most = experiment.fit(engine="inline", store=tmp_path / "a", progress=False)
    least = replace(experiment, metric="loss", mode="min").fit(engine="inline", store=tmp_path / "b", progress=False)
    accuracy = [row["metrics"]["valid"]["accuracy"] for row in most.leaderboard()]
    loss = [row["metrics"]["valid"]["loss"] for row in least.leaderboard()]
    assert accuracy == sorted(accuracy, reverse=True)
    assert most.best["metrics"]["valid"]["accuracy"] == max(accuracy)
    assert loss == sorted(loss)
    assert least.best["metrics"]["valid"]["loss"] == min(loss)


def test_valid_metrics_are_those_of_one_pass_over_the_exported_model(experiment, shards, tmp_path):
    result = experiment.fit(store=tmp_path / "store", progress=False)
    columns = cerebro.open(shards).shard("valid", 0).columns
    signal, label = torch.tensor(columns["signal"]), torch.tensor(columns["label"])
    for row in result.leaderboard():
        exported = result.export(row["model"], tmp_path / row["model"])
        module = cerebro.load(exported, experiment.build)
        with torch.no_grad():
            output = module(signal)
        valid = row["metrics"]["valid"]
        assert valid["loss"] == pytest.approx(F.cross_entropy(output, label).item(), abs=1e-6)
        assert valid["accuracy"] == pytest.approx((output.argmax(1) == label).float().mean().item(), abs=1e-6)


def test_an_export_is_readable_without_the_code(experiment, tmp_path):
    result = experiment.fit(engine="inline", store=tmp_path / "store", progress=False)
    folder = result.export(None, tmp_path / "best")
    exported = cerebro.load(folder)
    assert exported.config == result.best["config"]
    assert json.loads((folder / "model.json").read_text())["state_digest"] == result.best["state_digest"]
    expected = result.load().state_dict()
    assert {name: tensor.shape for name, tensor in exported.tensors.items()} == {
        n: t.shape for n, t in expected.items()
    }


def test_the_test_split_is_looked_at_on_request_and_noted(experiment, tmp_path):
    result = experiment.fit(engine="inline", store=tmp_path, progress=False)
    values = result.test()
    assert set(values) == {"loss", "accuracy"}
    assert "test split looked at" in [row["kind"] for row in rows_of(result, "SELECT kind FROM events")]


def test_looking_at_the_test_split_measures_the_model_as_it_is(experiment, shards, tmp_path):
    result = experiment.fit(engine="inline", store=tmp_path, progress=False)
    columns = cerebro.open(shards).shard("test", 0).columns
    signal, label = torch.tensor(columns["signal"]), torch.tensor(columns["label"])
    for row in result.leaderboard():
        with torch.no_grad():
            output = result.load(row["model"])(signal)
        found = result.test(row["model"])
        assert found["loss"] == pytest.approx(F.cross_entropy(output, label).item(), abs=1e-6)
        assert found["accuracy"] == pytest.approx((output.argmax(1) == label).float().mean().item(), abs=1e-6)


def test_the_log_is_a_chain(experiment, tmp_path):
    result = experiment.fit(engine="inline", store=tmp_path, progress=False)
    before = "0" * 64
    for row in rows_of(result, "SELECT * FROM events ORDER BY seq"):
        assert row["prev_hash"] == before
        before = event_hash(before, row["seq"], row["ts"], row["actor"], row["kind"], row["body"])
        assert row["hash"] == before


def test_functions_of_a_notebook_cell_reach_the_workers(shards, tmp_path):
    """A cell's functions live in a `__main__` without a file; they travel by value."""
    cell = {"__name__": "__main__", "cerebro": cerebro, "mlp": mlp, "F": F, "torch": torch, "partial": partial}
    source = """
def loss(module, batch):
    return F.cross_entropy(module(batch["signal"]), batch["label"])
def build(config):
    return cerebro.Learner(
        module=mlp(), loss=loss, optimizer=partial(torch.optim.SGD, lr=config["lr"]), batch_size=32)
"""
    exec(compile(source, "<ipython-input-1>", "exec"), cell)
    cells = cerebro.Experiment(
        "cells",
        data=shards,
        build=cell["build"],
        search=cerebro.Grid({"lr": [0.1]}),
        epochs=1,
        metric="loss",
        mode="min",
    )
    assert cells.fit(workers=1, store=tmp_path, progress=False).best["status"] == "finished"


def test_an_impure_loss_is_noticed_and_named(shards, tmp_path):
    calls: list[int] = []

    def build(config):
        def loss(module, batch):
            calls.append(1)
            return F.cross_entropy(module(batch["signal"]), batch["label"]) * (1 + 0.01 * len(calls))

        return replace(build_mlp(config), loss=loss)

    impure = cerebro.Experiment(
        "impure", data=shards, build=build, search=cerebro.Grid({"lr": [0.01]}), epochs=1, metric="loss", mode="min"
    )
    result = impure.fit(engine="inline", store=tmp_path, progress=False)
    assert result.best["badge"] == "best effort"
    noted = [json.loads(row["body"]) for row in rows_of(result, "SELECT body FROM events WHERE kind = 'impure'")]
    assert noted == [{"model": "m001", "tensor": "module/1.weight"}]


def test_a_dataset_of_other_rows_is_another_experiment(experiment, tmp_path):
    experiment.fit(engine="inline", store=tmp_path / "store", progress=False)
    other = tmp_path / "other.shards"
    cerebro.ingest(signals(seed=1), other, shards=4, label="label")
    with pytest.raises(cerebro.StoreError, match="another declaration: data was"):
        replace(experiment, data=other).fit(engine="inline", store=tmp_path / "store", progress=False)


def test_changed_code_is_refused_by_the_name_of_the_function(shards, tmp_path):
    def build(config):
        return build_mlp(config)

    declared = cerebro.Experiment(
        "code", data=shards, build=build, search=cerebro.Grid({"lr": [0.01]}), epochs=1, metric="loss", mode="min"
    )
    declared.fit(engine="inline", store=tmp_path, progress=False)

    @functools.wraps(build)
    def changed(config):
        return build_mlp({**config, "width": 32})

    del changed.__wrapped__
    with pytest.raises(cerebro.StoreError, match=r"code\.test_fit\.\S*build was '[0-9a-f]+…"):
        replace(declared, build=changed).fit(engine="inline", store=tmp_path, progress=False)


def test_the_store_is_its_owners_alone(experiment, tmp_path):
    folder = experiment.fit(engine="inline", store=tmp_path / "store", progress=False).folder.path
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert {name: mode for name, mode in modes.items() if mode not in (0o600, 0o700)} == {}


def test_one_experiment_is_run_by_one_process_at_a_time(experiment, tmp_path):
    folder = experiment.fit(engine="inline", store=tmp_path, progress=False).folder
    with folder.held(), pytest.raises(cerebro.StoreError, match=f"is being run by process {os.getpid()}"):
        experiment.fit(engine="inline", store=tmp_path, progress=False)
