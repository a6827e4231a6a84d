"""The handle: steering from Python, by a run of this process, of another, or of none."""

import json
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import cerebro
from cerebro.commands import Add, Clone, Extend, Finish, Note, Resume, Stop
from cerebro.control.console import Console
from cerebro.control.orders import parse_order
from cerebro.control.validation import facts_in
from cerebro.session.handle import Handle, connect, shape_check, start
from cerebro.session.result import Result
from cerebro.spec.space import loguniform
from cerebro.storage.catalog import Catalog
from cerebro.storage.inbox import Inbox
from cerebro.storage.store import ExperimentFolder
from tests.control.steered import CONFIGS, left_behind
from tests.nets import build_mlp

NEW = {"layers": 3, "optimizer": {"kind": "adamw", "lr": 0.1}}


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return left_behind(tmp_path / "store")


@pytest.fixture
def handle(folder: ExperimentFolder) -> Handle:
    return connect("posture", folder.path.parent)


def queued(folder: ExperimentFolder) -> list[object]:
    return [parse_order(text).command for _, text in Inbox(folder.path).pending()]


VERBS = {
    "stop": (lambda handle, **said: handle.stop("m002", **said), Stop("m002")),
    "resume": (lambda handle, **said: handle.resume("m003", until=4, **said), Resume("m003", 4)),
    "clone": (
        lambda handle, **said: handle.clone("m002", {"optimizer.lr": 0.5}, layers=4, optimizer="reset", **said),
        Clone("m002", {"optimizer.lr": 0.5, "layers": 4}, warm=True, optimizer="reset"),
    ),
    "extend": (lambda handle, **said: handle.extend("m001", 2, **said), Extend("m001", 2)),
    "add": (lambda handle, **said: handle.add(NEW, **said), Add(NEW)),
    "finish": (lambda handle, **said: handle.finish(**said), Finish()),
    "note": (lambda handle, **said: handle.note("odd", "m001", **said), Note("odd", "m001")),
}


@pytest.mark.parametrize(("verb", "command"), VERBS.values(), ids=VERBS)
def test_what_is_asked_while_no_run_is_alive_waits_for_the_next(verb, command, handle, folder):
    reply = verb(handle)
    assert (reply.accepted, reply.queued) == (True, True)
    assert str(reply).endswith("no run is alive: applied by the next `cerebro run`")
    assert queued(folder) == [command]


@pytest.mark.parametrize(("verb", "command"), VERBS.values(), ids=VERBS)
def test_a_dry_run_changes_nothing(verb, command, handle, folder):
    assert "; it costs " in str(verb(handle, dry_run=True)) or "; it saves " in str(verb(handle, dry_run=True))
    assert not (folder.path / "inbox").exists()


def test_a_note_says_why_in_the_order(handle, folder):
    handle.stop("m002", "overfits")
    ((_, text),) = Inbox(folder.path).pending()
    order = parse_order(text)
    assert (order.actor, order.note) == ("user", "overfits")


def test_orders_wait_in_the_order_in_which_they_were_given(handle, folder):
    handle.stop("m002")
    handle.finish()
    handle.stop("m007")
    assert queued(folder) == [Stop("m002"), Finish(), Stop("m007")]


def test_what_is_refused_is_raised_and_not_queued(handle, folder):
    with pytest.raises(cerebro.StoreError, match="stop m001: it is finished"):
        handle.stop("m001")
    with pytest.raises(cerebro.SpecError, match="'keep' or 'reset'; a hyper-parameter of that name belongs into the"):
        handle.clone("m002", optimizer="sgd")
    assert not (folder.path / "inbox").exists()


def test_models_drawn_from_a_space_are_added_around_the_best(handle, folder):
    replies = handle.add_from_space({"optimizer.lr": loguniform(1e-5, 1e-3)}, 3, seed=1)
    assert [reply.accepted for reply in replies] == [True] * 3
    best = handle.leaderboard()[0]["config"]
    configs = [command.config for command in queued(folder) if isinstance(command, Add)]
    assert [config["layers"] for config in configs] == [best["layers"]] * 3
    assert len({config["optimizer"]["lr"] for config in configs}) == 3


def test_models_drawn_from_a_space_are_around_the_model_that_was_named(handle, folder):
    handle.add_from_space({"optimizer.lr": loguniform(1e-5, 1e-3)}, 1, like="m005")
    (command,) = queued(folder)
    assert isinstance(command, Add)
    assert command.config["layers"] == CONFIGS[4]["layers"]


def test_a_config_like_that_of_a_model(handle):
    assert handle.config({"optimizer.lr": 9}, like="m005") == {"layers": 2, "optimizer": {"kind": "adamw", "lr": 9}}
    assert handle.config({"optimizer.lr": 9}) == {"optimizer": {"lr": 9}}
    with pytest.raises(cerebro.SpecError, match="did you mean 'layers'"):
        handle.config({"layer": 9}, like="m005")


def test_there_is_no_handle_on_what_was_never_run(folder):
    with pytest.raises(cerebro.StoreError, match=r"no experiment 'other' in the store .*; there are: posture"):
        connect("other", folder.path.parent)


def test_the_handle_shows_what_the_catalog_has(handle, folder):
    assert handle.status == "interrupted"
    assert len(handle.leaderboard()) == 8
    assert isinstance(handle.wait(), Result)
    assert handle.events() == list(handle.watch()) == []


def test_watching_gives_new_events_until_no_run_is_alive(handle, folder):
    with closing(Catalog(folder.path)) as catalog, folder.held():
        catalog.add_event("engine", "before", {})
        watched = handle.watch()
        catalog.add_event("engine", "run started", {})
        assert next(watched)["kind"] == "run started"
        catalog.add_event("engine", "run finished", {})
        assert next(watched)["kind"] == "run finished"
    assert list(watched) == []
    assert [event["seq"] for event in handle.watch(after=1)] == [2, 3]


def test_a_run_that_was_killed_is_interrupted(handle, folder):
    with closing(Catalog(folder.path)) as catalog:
        catalog.set_experiment(status="running")
    assert handle.status == "interrupted"
    with folder.held():
        assert handle.status == "running"


def test_watching_ends_with_its_time(handle, folder):
    with folder.held():
        assert list(handle.watch(timeout=0)) == []
        with pytest.raises(TimeoutError, match="posture is still run by process"):
            handle.wait(timeout=0)


def test_a_run_that_is_started_takes_orders_when_the_handle_is_given(folder):
    going = threading.Event()

    def run() -> Result:
        with folder.held(), Console(folder.path, lambda: facts_in(folder, None)):
            assert going.wait(60)
        return Result(folder)

    handle = start(run, folder, None)
    try:
        reply = handle.stop("m002")
        assert (reply.accepted, reply.queued) == (True, False)
        with pytest.raises(TimeoutError):
            handle.wait(timeout=0)
    finally:
        going.set()
    assert handle.wait() == Result(folder)
    assert queued(folder) == [Stop("m002")]


def test_a_run_that_ends_at_once_gives_its_result(folder):
    assert start(lambda: Result(folder), folder, None).wait() == Result(folder)


def test_what_ends_a_run_is_raised(folder):
    def fail() -> Result:
        raise cerebro.SpecError("no such metric")

    with pytest.raises(cerebro.SpecError, match="no such metric"):
        start(fail, folder, None)


def test_what_ends_a_run_later_is_raised_by_wait(folder):
    going = threading.Event()

    def fail() -> Result:
        with folder.held(), Console(folder.path, lambda: facts_in(folder, None)):
            assert going.wait(60)
        raise KeyboardInterrupt

    handle = start(fail, folder, None)
    going.set()
    with pytest.raises(KeyboardInterrupt):
        handle.wait()


FILE = """
import cerebro
from tests.nets import build_mlp
experiment = cerebro.Experiment("posture", data="x", build=build_mlp, search=cerebro.Grid({"lr": [1]}), epochs=1,
                                metric="accuracy", mode="max")
"""


def test_shapes_are_checked_with_the_file_that_declares_the_experiment(tmp_path, shards):
    file = tmp_path / "handle_shapes_file.py"
    file.write_text(FILE)
    folder = left_behind(tmp_path / "store", source=str(file), data=str(shards))
    check = shape_check(folder, None)
    assert check is not None
    check({"lr": 0.1, "width": 8}, {"lr": 0.2, "width": 8}, "keep")
    with pytest.raises(cerebro.CerebroError, match="the clone would have"):
        check({"lr": 0.1, "width": 8}, {"lr": 0.1, "width": 9}, "keep")


def test_shapes_are_checked_with_the_experiment_that_is_at_hand(folder, shards, experiment):
    spec = replace(experiment, build=build_mlp)
    with closing(Catalog(folder.path)) as catalog:
        catalog.set_experiment(data=str(shards))
    check = shape_check(folder, spec)
    assert check is not None
    with pytest.raises(cerebro.CerebroError, match="the clone would have"):
        check({"lr": 0.1, "width": 8}, {"lr": 0.1, "width": 9}, "reset")


def test_a_file_that_cannot_be_loaded_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "handle_broken_file.py").write_text("raise ValueError('moved')")
    folder = left_behind(tmp_path / "store", source=str(tmp_path / "handle_broken_file.py"))
    assert "whether the shapes fit is seen only when it begins" in str(Handle(folder).clone("m002", layers=9))


def test_a_script_that_trains_when_it_is_loaded_is_refused_to(tmp_path):
    file, said = tmp_path / "handle_training_file.py", tmp_path / "said"
    fit = f"""
from pathlib import Path
from cerebro.storage.store import Store
try:
    with Store({str(tmp_path / "store")!r}).experiment("posture").held():  # as fit() does first of all
        Path({str(said)!r}).write_text("it trains")
except cerebro.StoreError as error:
    Path({str(said)!r}).write_text(str(error))
    raise
"""
    file.write_text(FILE + fit)
    folder = left_behind(tmp_path / "store", source=str(file))
    assert "whether the shapes fit is seen only when it begins" in str(Handle(folder).clone("m002", layers=9))
    assert "is being run by process" in said.read_text()
    assert folder.driver() is None


def test_shapes_are_not_checked_in_a_process_that_may_be_training(folder, experiment):
    with folder.held():
        reply = Handle(folder, experiment).clone("m002", layers=9)
    assert "whether the shapes fit is seen only when it begins" in reply.text


def test_without_its_file_it_is_said_that_shapes_were_not_checked(handle):
    assert "whether the shapes fit is seen only when it begins" in str(handle.clone("m002", layers=9))


def decided(folder: ExperimentFolder) -> None:
    """What a procedure, a person and the engine decided about two models."""
    with closing(Catalog(folder.path)) as catalog:
        why = {"rung": 1, "rank": 5, "of": 9, "threshold": 0.7100001, "value": 0.64}
        catalog.add_event("asha", "added", {"model": "m002", "epoch": 0, "until": 1, "why": {"bracket": 0}})
        catalog.add_event("asha", "paused", {"model": "m002", "epoch": 3, "until": 3, "why": why})
        catalog.add_event("engine", "unit repeated", {"model": "m002"})
        catalog.add_event("asha", "paused", {"model": "m003", "epoch": 3, "why": why})
        catalog.add_event("user", "resumed", {"model": "m002", "epoch": 3, "until": 5, "note": "looks\x1b[31m good"})
        catalog.add_event("engine", "model failed", {"model": "m002", "error": "RuntimeError: no"})
        catalog.add_event("user", "note", {"model": "m002", "epoch": 4, "why": {"text": "see the plot"}})


def test_why_tells_what_was_decided_by_whom_and_from_what(handle, folder):
    decided(folder)
    head, added, paused, resumed, failed, note = str(handle.why("m002")).splitlines()
    assert head == "m002 of posture: training after 3 epochs"
    assert added == "epoch 0   added by asha until epoch 1: bracket 0"
    assert paused == "epoch 3   paused by asha: rung 1, rank 5 of 9, threshold 0.71, value 0.64"
    assert resumed == "epoch 3   resumed by user until epoch 5 (looks [31m good)"
    assert failed.endswith("failed by engine: RuntimeError: no")
    assert note == "epoch 4   note by user: see the plot"


def test_why_is_json_too(handle, folder):
    decided(folder)
    found = json.loads(json.dumps(handle.why("m002").as_json()))
    assert [each["kind"] for each in found["decided"]] == ["added", "paused", "resumed", "failed", "note"]
    assert found["decided"][1]["why"]["of"] == 9


def test_why_of_a_clone_names_its_parent(handle, folder):
    member = {"config": {}, "repeat": 0, "ancestor": {"model": "m002", "epoch": 4}}
    with closing(Catalog(folder.path)) as catalog:
        catalog.add_event("user", "cloned", {"model": "m008", "epoch": 3, "until": 5, "member": member})
        catalog.add_event("user", "paused", {"model": "m008", "why": ["not", "a", "mapping"], "until": "soon"})
    cloned, paused = str(handle.why("m008")).splitlines()[1:]
    assert cloned == "epoch 3   cloned by user until epoch 5: parent m002"
    assert paused.endswith("  paused by user")


def test_why_of_a_model_without_decisions_says_so(handle):
    assert str(handle.why("m001")).splitlines() == [
        "m001 of posture: finished after 5 epochs",
        "nothing was decided about it",
    ]
    with pytest.raises(cerebro.StoreError, match="no model 'm099'"):
        handle.why("m099")
