"""A steered run: the same decisions and the same bits with any number of workers, through interruptions and orders."""

from contextlib import closing

import pytest

import cerebro
from cerebro.engines.inline import InlineEngine
from cerebro.execution.recorder import Recorder
from cerebro.session import connect
from cerebro.session.declaration import steering_of
from cerebro.session.experiment import ENGINES
from cerebro.session.recall import recall
from tests.nets import build_any

SPACE = {"net": ["mlp", "cnn"], "lr": cerebro.loguniform(1e-4, 1e-1)}
PROCEDURES = {
    "asha": lambda: cerebro.ASHA(SPACE, models=9, max_epochs=4, eta=2),
    "halving": lambda: cerebro.SuccessiveHalving(SPACE, models=4, max_epochs=4, eta=2),
    "hyperband": lambda: cerebro.Hyperband(SPACE, max_epochs=4, eta=2),
    "pbt": lambda: cerebro.PBT(SPACE, population=4, interval=1),
    "median": lambda: cerebro.MedianStopping(SPACE, models=6, startup=2),
    "tpe with asha": lambda: cerebro.ASHA(
        cerebro.OptunaSearch(SPACE, sampler="tpe"), models=6, max_epochs=4, eta=2, lanes=3
    ),
}


def experiment_of(shards, search, **more):
    return cerebro.Experiment(
        "steered", data=shards, build=build_any, search=search, epochs=4, metric="accuracy", mode="max", **more
    )


def fit(experiment, store, workers=2, **more):
    # Where a budget ends a run, and with it where the orders given after it fall, depends on which models go together.
    return experiment.fit(engine="inline", workers=workers, store=store, progress=False, fuse=False, **more)


def outcome(result):
    """The models with their states, and every decision but for its moment."""
    with closing(result.folder.reader()) as reader:
        events = reader.events()
    rulings = [
        (event["actor"], event["kind"], event["body"].get("model"), event["body"].get("until"))
        for event in events
        if "told" in event["body"] and event["kind"] != "model finished"
    ]
    models = {row["model"]: (row["status"], row["epochs"], row["state_digest"]) for row in result.leaderboard()}
    return models, rulings


@pytest.mark.parametrize("name", PROCEDURES)
def test_decisions_and_states_do_not_depend_on_the_number_of_workers(shards, tmp_path, name):
    experiment = experiment_of(shards, PROCEDURES[name]())
    one, *others = (outcome(fit(experiment, tmp_path / str(workers), workers)) for workers in (1, 2, 3))
    assert others == [one, one]
    assert any(kind == "paused" for _, kind, _, _ in one[1])


@pytest.mark.parametrize(("name", "workers"), [("asha", 2), ("hyperband", 3), ("pbt", 3), ("tpe with asha", 2)])
def test_processes_decide_as_one_process_does(shards, tmp_path, name, workers):
    experiment = experiment_of(shards, PROCEDURES[name]())
    local = experiment.fit(engine="local", workers=workers, store=tmp_path / "local", progress=False)
    assert outcome(local) == outcome(fit(experiment, tmp_path / "inline"))


@pytest.mark.parametrize("name", PROCEDURES)
def test_a_run_in_many_pieces_decides_as_one_in_one_piece(shards, tmp_path, name):
    experiment = experiment_of(shards, PROCEDURES[name]())
    whole = outcome(fit(experiment, tmp_path / "whole"))
    for epochs in range(1, 60, 2):
        result = fit(experiment, tmp_path / "pieces", budget=cerebro.Budget(epochs=epochs))
        if result.folder.is_finished:
            break
    assert epochs > 5
    models, rulings = outcome(result)
    with closing(result.folder.reader()) as reader:
        ended = [event["body"]["model"] for event in reader.events() if event["kind"] == "model finished"]
        assert all(row["until"] == row["epochs"] for row in reader.models() if row["status"] == "finished")
    assert len(ended) == len(set(ended))
    assert (models, sorted(map(str, rulings))) == (whole[0], sorted(map(str, whole[1])))


def test_every_model_of_a_population_can_be_trained_again_alone(shards, tmp_path):
    result = fit(experiment_of(shards, PROCEDURES["pbt"]()), tmp_path)
    replays = [result.replay(row["model"]) for row in result.leaderboard()]
    assert len(replays) > 4
    assert all(replay.identical for replay in replays)


def test_repeats_train_each_config_with_other_seeds_and_decide_by_their_mean(shards, tmp_path):
    experiment = experiment_of(shards, cerebro.ASHA(SPACE, models=4, max_epochs=4, eta=2), repeats=2)
    result = fit(experiment, tmp_path)
    rows = {row["model"]: row for row in result.leaderboard(each=True)}
    assert set(rows) == {f"m00{number}{repeat}" for number in range(1, 5) for repeat in ("", "-r2")}
    assert all(rows[f"m00{n}"]["epochs"] == rows[f"m00{n}-r2"]["epochs"] for n in range(1, 5))
    assert all(rows[f"m00{n}"]["config"] == rows[f"m00{n}-r2"]["config"] for n in range(1, 5))
    assert len({row["state_digest"] for row in rows.values()}) == 8
    assert result.replay("m001-r2").identical
    together = {row["model"]: row for row in result.leaderboard()}
    assert set(together) == {f"m00{number}" for number in range(1, 5)}
    one, other = (rows[model]["metrics"]["valid"]["accuracy"] for model in ("m001", "m001-r2"))
    shown = together["m001"]
    assert (shown["repeats"], shown["models"]) == (2, ["m001", "m001-r2"])
    assert shown["metrics"]["valid"]["accuracy"] == pytest.approx((one + other) / 2)
    assert shown["stderr"]["valid"]["accuracy"] == pytest.approx(abs(one - other) / 2)
    with pytest.raises(cerebro.SpecError, match=r"clone m001: every config is repeated here.*clone it cold"):
        connect("steered", tmp_path).clone("m001", lr=0.5)


def test_without_virtual_time_results_are_told_as_they_come_and_the_log_alone_repeats_the_decisions(shards, tmp_path):
    experiment = experiment_of(shards, PROCEDURES["asha"](), deterministic=False)
    for epochs in range(3, 60, 4):
        result = fit(experiment, tmp_path, budget=cerebro.Budget(epochs=epochs))
        with closing(result.folder.reader()) as reader:
            events = [event for event in reader.events() if "told" in event["body"]]
            again = experiment_of(shards, PROCEDURES["asha"](), deterministic=False)
            steering = steering_of(again)
            assert recall(steering, reader) == []  # the log knows all that follows from it
        assert steering.told == sum(event["kind"] == "told" for event in events)
        assert {model: steering.until(model) for model in steering.underway()} == {
            row["model"]: row["until"] for row in _models(result) if row["model"] in steering.underway()
        }
        if result.folder.is_finished:
            break
    assert epochs > 3
    assert {row["status"] for row in result.leaderboard()} == {"finished", "paused"}


def _models(result):
    with closing(result.folder.reader()) as reader:
        return reader.models()


def test_a_model_at_rest_takes_no_memory_and_goes_on_from_its_durable_state_to_the_same_bits(
    shards, tmp_path, monkeypatch
):
    held, restored = list[set[str]](), list[str]()

    class Watched(InlineEngine):
        def open(self, program, workers, restore):
            super().open(program, workers, lambda model: restored.append(model) or restore(model))

        def forget(self, model):
            super().forget(model)
            held.append(set(self._states))

    def written_at_once(recorder):
        recorder.finish_writing()
        return lambda: True

    monkeypatch.setattr(Recorder, "written", written_at_once)  # or it would be a matter of moments what is forgotten
    monkeypatch.setitem(ENGINES, "inline", Watched)
    result = fit(experiment_of(shards, PROCEDURES["halving"]()), tmp_path)
    again = {model for model in restored if restored.count(model) > 1}  # once is when it begins
    assert again
    assert held[-1] == set()
    assert all(result.replay(model).identical for model in again)


class TestPeople:
    @pytest.fixture
    def finished(self, shards, tmp_path):
        """Four models that have come to their end, and a handle on them."""
        grid = cerebro.Grid({"net": ["mlp", "cnn"], "lr": [0.01, 0.001]})
        experiment = experiment_of(shards, grid)
        fit(experiment, tmp_path)
        return experiment, connect("steered", tmp_path), tmp_path

    def test_an_experiment_is_never_closed(self, finished):
        experiment, handle, store = finished
        before = {row["model"]: row["state_digest"] for row in handle.leaderboard()}
        assert handle.extend("m002", 2).queued
        rows = {row["model"]: row for row in fit(experiment, store).leaderboard()}
        assert (rows["m002"]["status"], rows["m002"]["epochs"]) == ("finished", 6)
        assert {model: row["state_digest"] for model, row in rows.items() if model != "m002"} == {
            model: digest for model, digest in before.items() if model != "m002"
        }
        assert experiment.result(store).replay("m002").identical

    def test_a_warm_clone_trains_with_what_was_changed_from_its_first_step(self, finished):
        experiment, handle, store = finished
        assert handle.clone("m001", lr=0.0).accepted
        result = fit(experiment, store)
        rows = {row["model"]: row for row in result.leaderboard()}
        assert (rows["m005"]["status"], rows["m005"]["epochs"], rows["m005"]["config"]["lr"]) == ("finished", 5, 0.0)
        before, after = result.load("m001").state_dict(), result.load("m005").state_dict()
        assert all((before[name] == after[name]).all() for name in before)  # a rate of zero moves nothing
        assert result.replay("m005").identical

    def test_orders_are_carried_out_once_and_leave_their_reason(self, finished):
        experiment, handle, store = finished
        handle.add({"net": "mlp", "lr": 0.1}, note="a hunch")
        handle.note("looked at the curves", "m003")
        fit(experiment, store)
        fit(experiment, store)
        with closing(experiment.result(store).folder.reader()) as reader:
            commands = [row["command"] for row in reader.rows("commands", order="seq")]
        assert sorted(commands) == ["add", "note", "run", "run"]
        assert "a hunch" in str(handle.why("m005"))
        assert "looked at the curves" in str(handle.why("m003"))

    def test_the_same_orders_before_a_run_give_the_same_log_in_one_piece_or_many(self, shards, tmp_path):
        outcomes = []
        for name, limits in (("whole", (None,)), ("pieces", (8, 16, None))):
            experiment, store = experiment_of(shards, PROCEDURES["asha"]()), tmp_path / name
            fit(experiment, store, budget=cerebro.Budget(epochs=4))
            handle = connect("steered", store)
            handle.add({"net": "mlp", "lr": 0.05})
            handle.stop("m001")
            for limit in limits:
                result = fit(experiment, store, budget=limit and cerebro.Budget(epochs=limit))
            outcomes.append(outcome(result)[0])
        # Where in its epochs the one that was stopped had come to is a matter of moments.
        assert [models.pop("m001")[0] for models in outcomes] == ["stopped", "stopped"]
        assert outcomes[0] == outcomes[1]

    def test_finish_begins_nothing_more_and_one_model_may_still_go_on(self, shards, tmp_path):
        experiment = experiment_of(shards, PROCEDURES["asha"]())
        fit(experiment, tmp_path, budget=cerebro.Budget(epochs=3))
        handle = connect("steered", tmp_path)
        handle.finish()
        result = fit(experiment, tmp_path)
        epochs = sum(row["epochs"] for row in result.leaderboard())
        assert result.folder.is_finished
        assert epochs <= 5
        handle.resume("m001")
        rows = {row["model"]: row for row in fit(experiment, tmp_path).leaderboard()}
        assert rows["m001"]["status"] == "finished"

    def test_a_run_in_the_background_takes_orders(self, shards, tmp_path):
        grid = cerebro.Grid({"net": ["mlp", "cnn"], "lr": [0.01, 0.001]})
        experiment = experiment_of(shards, grid, seed=1)
        handle = experiment.start(engine="local", workers=1, store=tmp_path, progress=False)
        assert handle.extend("m004", 1).accepted
        handle.wait()
        result = fit(experiment, tmp_path)  # had the run ended before it came to it, the next one does
        rows = {row["model"]: row for row in result.leaderboard()}
        assert (rows["m004"]["epochs"], rows["m003"]["epochs"]) == (5, 4)


def test_half_a_budget_does_half_of_the_work_and_says_what_is_left(shards, tmp_path, capsys):
    experiment = experiment_of(shards, cerebro.Grid({"net": ["mlp"], "lr": [0.1, 0.01, 0.001]}))
    whole = {row["model"]: row["state_digest"] for row in fit(experiment, tmp_path / "whole").leaderboard()}
    store = tmp_path / "half"
    experiment.fit(engine="inline", workers=2, store=store, budget="epochs=6")
    with closing(experiment.result(store).folder.reader()) as reader:
        units = len(reader.units())
        ended = reader.events()[-1]["body"]["reason"]
    assert 30 <= units <= 32  # 5 units an epoch, and one more for each worker at most
    assert "the budget is spent (epochs" in ended
    assert "left of them" in capsys.readouterr().err
    fit(experiment, store, budget="epochs=4")
    with closing(experiment.result(store).folder.reader()) as reader:
        assert len(reader.units()) == units  # there is no room for one unit more
    assert {row["model"]: row["state_digest"] for row in fit(experiment, store).leaderboard()} == whole
