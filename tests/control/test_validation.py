"""What may be asked of an experiment as it is: invalid commands are refused with the way out, valid ones are told."""

from dataclasses import replace

import pytest

import cerebro
from cerebro.commands import Add, Clone, Extend, Finish, Note, Resume, Stop
from cerebro.control.client import send
from cerebro.control.knobs import nested
from cerebro.control.orders import new_order
from cerebro.control.validation import check, cost, facts_in
from cerebro.storage.inbox import Inbox
from tests.control.steered import CONFIGS, HAVE_STATES, facts, left_behind

LR = {"optimizer.lr": 0.5}
NEW = {"layers": 3, "optimizer": {"kind": "adamw", "lr": 0.1}}

REFUSED = {
    "stop an unknown model": (Stop("m009"), "experiment 'posture' has no model 'm009'; it has m001 to m008"),
    "stop a finished model": (
        Stop("m001"),
        "stop m001: it is finished; one can stop a waiting, training or paused model",
    ),
    "stop a stopped model": (
        Stop("m004"),
        "stop m004: it is stopped; one can stop a waiting, training or paused model; `cerebro resume posture m004` "
        "goes on with it",
    ),
    "stop a failed model": (Stop("m005"), "stop m005: it is failed; one can stop a waiting, training or paused model"),
    "resume an unknown model": (Resume("x"), "experiment 'posture' has no model 'x'; it has m001 to m008"),
    "resume a finished model": (
        Resume("m001"),
        "resume m001: it is finished; one can resume a stopped or paused model: "
        "extend it, `cerebro extend posture m001 --epochs 1`",
    ),
    "resume a failed model": (
        Resume("m005"),
        "resume m005: it is failed; one can resume a stopped or paused model: see `cerebro retry posture m005`",
    ),
    "resume a diverged model": (
        Resume("m006"),
        "resume m006: it is diverged; one can resume a stopped or paused model: see `cerebro retry posture m006`",
    ),
    "resume a training model": (
        Resume("m002"),
        "resume m002: it is training; one can resume a stopped or paused model: it goes on by itself",
    ),
    "resume until an epoch that is over": (Resume("m003", 2), "resume m003: until: 2 is not an epoch from 3 to 5"),
    "resume until after the last": (Resume("m003", 6), "resume m003: until: 6 is not an epoch from 3 to 5"),
    "extend by nothing": (Extend("m001", 0), "extend: epochs: 0 is not a whole number of at least 1"),
    "extend a failed model": (
        Extend("m005", 1),
        "extend m005: it has failed: see `cerebro retry posture m005`",
    ),
    "extend a diverged model": (
        Extend("m006", 1),
        "extend m006: it has diverged: see `cerebro retry posture m006`",
    ),
    "extend an unknown model": (Extend("m1", 1), "experiment 'posture' has no model 'm1'; it has m001 to m008"),
    "clone an unknown model": (Clone("m099", LR), "experiment 'posture' has no model 'm099'; it has m001 to m008"),
    "clone with a knob mistyped": (
        Clone("m001", {"layer": 3}),
        "clone m001: there is no hyper-parameter 'layer'; did you mean 'layers'?",
    ),
    "clone with a nested knob by its last name": (
        Clone("m001", {"lr": 3}),
        "clone m001: there is no hyper-parameter 'lr'; did you mean 'optimizer.lr'?",
    ),
    "clone with a knob like no other": (
        Clone("m001", {"zzz": 3}),
        "clone m001: there is no hyper-parameter 'zzz'; there are layers, optimizer, optimizer.kind, optimizer.lr",
    ),
    "clone without changes": (Clone("m001", {}), "clone m001: say what changes, LR=VALUE"),
    "clone that changes nothing": (
        Clone("m002", {"optimizer.lr": 0.01}),
        "clone m002: it changes nothing: m002 has optimizer.lr 0.01 already",
    ),
    "clone with a number mistyped": (
        Clone("m001", {"optimizer.lr": "1e--4"}),
        "clone m001: optimizer.lr: '1e--4' is not a number, such as 0.1",
    ),
    "a cold clone that is another model": (
        Clone("m001", {"optimizer.lr": 0.01}, warm=False),
        "clone m001: m002 has this config already: see `cerebro leaderboard posture`",
    ),
    "a warm clone of a model without a state": (
        Clone("m007", LR),
        "clone m007: it has no durable state yet (waiting, 0 of 5 epochs finished): wait for one, or clone it cold "
        "(--cold)",
    ),
    "a clone at an epoch, by a person": (
        Clone("m001", LR, at=2),
        "clone m001: at: 2 is for procedures; leave it out: it starts from the newest state",
    ),
    "a warm clone until an epoch that is over": (
        Clone("m002", LR, until=3),
        "clone m002: until: 3 is not an epoch from 4 to 5",
    ),
    "a warm clone of a finished model, until an epoch": (
        Clone("m001", LR, until=5),
        "clone m001: until: 5: it has finished all 5 epochs: extend it instead",
    ),
    "a clone whose shapes do not fit": (
        Clone("m002", {"layers": 7}),
        "clone m002: the ancestor has layer.2 (16, 16), the clone would have none",
    ),
    "a clone that cannot be built": (
        Clone("m002", {"layers": 0}),
        "clone m002: build fails with layers=0 optimizer.kind=adamw optimizer.lr=0.01: "
        "ZeroDivisionError: division by zero",
    ),
    "add nothing": (Add({}), "add: a config without values; give those of a model, such as lr=0.001"),
    "add with a key missing": (
        Add({"layers": 3, "optimizer": {"lr": 0.1}}),
        "add: 'optimizer.kind' is missing; a config has layers, optimizer.kind, optimizer.lr",
    ),
    "add with a key mistyped": (
        Add({"layes": 3, "optimizer": {"kind": "adamw", "lr": 0.1}}),
        "add: there is no hyper-parameter 'layes'; did you mean 'layers'?",
    ),
    "add a key too many": (
        Add({**NEW, "width": 3}),
        "add: there is no hyper-parameter 'width'; there are layers, optimizer.kind, optimizer.lr",
    ),
    "add a config that is trained": (
        Add(CONFIGS[2]),
        "add: m003 has this config already: see `cerebro leaderboard posture`",
    ),
    "add with a number mistyped": (Add({**NEW, "layers": "two"}), "add: layers: 'two' is not a number, such as 1"),
    "add with a number mistyped inside": (
        Add({"layers": 3, "optimizer": {"kind": "adamw", "lr": "1e--4"}}),
        "add: optimizer.lr: '1e--4' is not a number, such as 0.1",
    ),
    "add until after the last": (Add(NEW, until=6), "add: until: 6 is not an epoch from 1 to 5"),
    "an empty note": (Note(" \n"), "note: the text is empty; say what there is to note"),
    "a long note": (Note("n" * 10_001), "note: the text has 10,001 characters; at most 10,000 are allowed"),
    "a note on an unknown model": (Note("?", "m0"), "experiment 'posture' has no model 'm0'; it has m001 to m008"),
}


def shapes(before, after, optimizer):
    """Seven layers do not fit, none cannot be built."""
    assert optimizer in ("keep", "reset")
    assert 1 / after["layers"]
    if after["layers"] == 7:
        raise cerebro.ModelError("the ancestor has layer.2 (16, 16), the clone would have none")


@pytest.mark.parametrize(("command", "message"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_command_is_refused_with_the_way_out_and_not_queued(command, message, tmp_path):
    folder = left_behind(tmp_path)
    with pytest.raises(cerebro.CerebroError) as refusal:
        send(folder, new_order(command), False, lambda: facts_in(folder, shapes))
    assert str(refusal.value) == message
    assert type(refusal.value) is not cerebro.CerebroError
    assert Inbox(folder.path).pending() == []
    assert not (folder.path / "inbox").exists()


def test_finish_is_refused_when_all_is_finished():
    with pytest.raises(cerebro.StoreError, match="finish: experiment 'posture' is finished: nothing is left to end"):
        check(Finish(), facts(status="finished"))


TOLD = [
    (
        Stop("m002"),
        "stops m002 at the end of its unit (training, 3 of 5 epochs finished); `cerebro resume posture m002` goes on "
        "with it",
        "saves 2 epochs, about 4.0 s of one worker by its epochs so far",
    ),
    (
        Resume("m004"),
        "goes on with m004 after 2 epochs, until epoch 5",
        "costs 3 epochs, about 6.0 s of one worker by its epochs so far",
    ),
    (
        Resume("m003", 3),
        "goes on with m003 after 2 epochs, until epoch 3",
        "costs 1 epoch, about 2.0 s of one worker by its epochs so far",
    ),
    (
        Clone("m002", LR),
        "adds a clone of m002 with its config but for optimizer.lr 0.5, warm: from its newest state "
        "(training, 3 of 5 epochs finished), the optimizer's memory kept, to be trained until epoch 5",
        "costs 2 epochs, about 4.0 s of one worker by its epochs so far",
    ),
    (
        Clone("m001", {}, optimizer="reset"),
        "adds a clone of m001 with its config, warm: from its newest state (finished, 5 of 5 epochs finished), the "
        "optimizer's memory reset, to be trained until epoch 6",
        "costs 1 epoch, about 2.0 s of one worker by its epochs so far",
    ),
    (
        Clone("m007", LR, warm=False, until=2),
        "adds a clone of m007 with its config but for optimizer.lr 0.5, cold: from its initialisation, to be trained "
        "until epoch 2",
        "costs 2 epochs, about 4.0 s of one worker by the mean of all models",
    ),
    (
        Extend("m001", 2),
        "trains m001 for 2 epochs more than it was to be (finished, 5 of 5 epochs finished)",
        "costs 2 epochs, about 4.0 s of one worker by its epochs so far",
    ),
    (
        Add(NEW),
        "adds a new model with layers=3 optimizer.kind=adamw optimizer.lr=0.1, to be trained until epoch 5",
        "costs 5 epochs, about 10.0 s of one worker by the mean of all models",
    ),
    (Finish(), "begins nothing more: what runs ends its unit, and 4 models stay where they are", "costs nothing"),
    (Note("look", "m001"), "notes in the log of m001: 'look'", "costs nothing"),
    (Note("look"), "notes in the log of posture: 'look'", "costs nothing"),
]


@pytest.mark.parametrize(("command", "text", "price"), TOLD, ids=range(len(TOLD)))
def test_a_valid_command_is_told_with_what_it_does_and_costs(command, text, price):
    assert (check(command, facts(check_shapes=shapes)), cost(command, facts())) == (text, price)


def test_where_shapes_cannot_be_checked_it_is_said():
    assert "whether the shapes fit is seen only when it begins" in check(Clone("m002", LR), facts())


def test_shapes_are_not_looked_at_for_a_cold_clone():
    assert "cold" in check(Clone("m002", {"layers": 7}, warm=False), facts(check_shapes=shapes))


def test_before_anything_is_measured_the_cost_is_in_epochs():
    nothing = {model: replace(each, epoch_seconds=None) for model, each in facts().models.items()}
    said = cost(Add(NEW), facts(models=nothing))
    assert said == "costs 5 epochs; how long one takes was not measured yet"


def test_a_config_that_only_a_warm_clone_has_may_be_trained_cold():
    models = facts().models
    cloned = {**models, "m003": replace(models["m003"], is_warm=True)}
    assert check(Add(CONFIGS[2]), facts(models=cloned))


def test_what_a_stop_saves_is_up_to_where_the_model_was_to_pause():
    extended = replace(facts().models["m002"], until=9)
    assert cost(Stop("m002"), facts(models={"m002": extended})).startswith("saves 6 epochs")


def test_conditional_configs_may_have_the_keys_of_any_model():
    models = facts().models
    conditional = replace(
        models["m008"], config={"layers": 1, "optimizer": {"kind": "sgd", "lr": 1.0, "momentum": 0.9}}
    )
    mixed = facts(models={**models, "m008": conditional})
    assert check(Add({"layers": 2, "optimizer": {"kind": "sgd", "lr": 1.0, "momentum": 0.8}}), mixed)
    assert check(Add(NEW), mixed)
    with pytest.raises(cerebro.SpecError, match=r"there is no hyper-parameter 'optimizer.momentun'; did you mean"):
        check(Add({"layers": 2, "optimizer": {"kind": "sgd", "lr": 1.0, "momentun": 0.8}}), mixed)


def test_the_facts_are_those_of_the_catalog(tmp_path):
    found = facts_in(left_behind(tmp_path, status="running"), None)
    assert found == facts()
    assert [model for model, each in found.models.items() if each.has_state] == list(HAVE_STATES)


def test_an_experiment_that_was_never_run_has_no_facts(tmp_path):
    with pytest.raises(cerebro.StoreError, match="no experiment"):
        facts_in(replace(left_behind(tmp_path), path=tmp_path / "other"), None)


def test_dotted_names_are_paths():
    assert nested({"layers": 1, "optimizer.lr": 2, "optimizer.kind": "x"}) == {
        "layers": 1, "optimizer": {"lr": 2, "kind": "x"}
    }  # fmt: skip
    for names in (["a", "a.b"], ["a.b", "a"], ["a.b", "a.b.c"]):
        with pytest.raises(cerebro.SpecError, match="say one of the two"):
            nested(dict.fromkeys(names, 1))
