"""The commands that steer, as a person at a terminal uses them; no run is alive."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import cerebro
from cerebro.cli import app, main
from cerebro.cli.steer import space_of, values_of
from cerebro.commands import Add, Clone, Extend, Finish, Note, Resume, Stop
from cerebro.control.orders import Order, parse_order
from cerebro.spec.space import LogUniform, RandInt, Uniform
from cerebro.storage.inbox import Inbox
from cerebro.storage.store import ExperimentFolder
from tests.control.steered import left_behind


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentFolder:
    monkeypatch.setenv("CEREBRO_STORE", str(tmp_path / "store"))
    return left_behind(tmp_path / "store")


def invoke(command: str) -> Result:
    return CliRunner().invoke(app, command.split(), catch_exceptions=False)


def orders(folder: ExperimentFolder) -> list[Order]:
    return [parse_order(text) for _, text in Inbox(folder.path).pending()]


SAID = {
    "stop posture m002": Stop("m002"),
    "resume posture m004": Resume("m004"),
    "resume posture m004 --until 3": Resume("m004", 3),
    "clone posture m002 optimizer.lr=5e-4": Clone("m002", {"optimizer.lr": 5e-4}),
    "clone posture m002 layers=3 optimizer.kind=sgd --cold": Clone(
        "m002", {"layers": 3, "optimizer.kind": "sgd"}, warm=False
    ),
    "clone posture m002 --warm --optimizer reset": Clone("m002", {}, optimizer="reset"),
    "extend posture m001 --epochs 2": Extend("m001", 2),
    "add posture layers=3 optimizer.kind=sgd optimizer.lr=1": Add({"layers": 3, "optimizer": {"kind": "sgd", "lr": 1}}),
    "add posture layers=3 --like m005": Add({"layers": 3, "optimizer": {"kind": "adamw", "lr": 0.1}}),
    "finish posture": Finish(),
    "note posture odd --model m003": Note("odd", "m003"),
    "note posture odd": Note("odd"),
}


@pytest.mark.parametrize(("said", "command"), SAID.items(), ids=SAID)
def test_what_is_typed_is_queued_for_the_next_run(said, command, folder):
    shown = invoke(said)
    assert shown.exit_code == 0
    assert shown.stdout.endswith("; no run is alive: applied by the next `cerebro run`\n")
    assert [order.command for order in orders(folder)] == [command]


@pytest.mark.parametrize("said", SAID)
def test_a_dry_run_is_told_as_json_and_queues_nothing(said, folder):
    reply = json.loads(invoke(f"{said} --dry-run --json").stdout)
    assert (reply["accepted"], reply["queued"], reply["order"]) == (True, False, None)
    assert "; it costs " in reply["text"] or "; it saves " in reply["text"]
    assert not (folder.path / "inbox").exists()


def test_a_note_is_part_of_the_order(folder):
    invoke("stop posture m002 --note overfits")
    ((order),) = orders(folder)
    assert order.note == "overfits"


def test_models_are_drawn_from_a_space_that_is_typed(folder):
    shown = invoke("add posture layers=5 --from-space optimizer.lr=1e-5..1e-3 -n 8 --like m003 --json")
    assert len(json.loads(shown.stdout)) == 8
    configs = [order.command.config for order in orders(folder) if isinstance(order.command, Add)]
    assert [config["layers"] for config in configs] == [5] * 8
    assert all(1e-5 <= config["optimizer"]["lr"] < 1e-3 for config in configs)


def test_a_refusal_is_one_clear_message_and_exit_status_1(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cerebro", "stop", "posture", "m001"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip() == (
        "StoreError: stop m001: it is finished; one can stop a waiting, training or paused model"
    )
    assert not (folder.path / "inbox").exists()


REFUSED = {
    "stop nothing m001": "no experiment 'nothing' in the store",
    "clone posture m002 lr": "clone: 'lr' is not NAME=VALUE, such as lr=0.001",
    "clone posture m002 =3": "clone: '=3' is not NAME=VALUE",
    "clone posture m002 layers=1 layers=2": "clone: 'layers' is said twice",
    "clone posture m002 layer=2": "did you mean 'layers'?",
    "clone posture m002 optimizer.lr=NaN": "a config holds finite numbers",
    "clone posture m002 layers=2 --optimizer sgd": "--optimizer: 'sgd' is not keep or reset",
    "add posture layers=2": "add: 'optimizer.kind', 'optimizer.lr' is missing",
    "add posture layers=2 -n 3": "give --from-space NAME=LOW..HIGH too",
    "add posture --from-space layers=3": "layers=3 is neither LOW..HIGH in numbers",
    "add posture --from-space layers=a..b": "layers=a..b is neither LOW..HIGH in numbers",
    "add posture --from-space layers=4..1": "low must be the smaller",
    "add posture --from-space optimizer.lr=-1.0..1.0 --log": "a logarithm needs more than 0",
    "add posture --from-space layers=1..4 -n 0": "n: 0 is not a whole number of at least 1",
    "why posture m099": "no model 'm099'",
}


@pytest.mark.parametrize(("said", "message"), REFUSED.items(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(said, message, folder):
    with pytest.raises(cerebro.CerebroError) as refusal:
        invoke(said)
    assert message in str(refusal.value)
    assert not (folder.path / "inbox").exists()


def test_why_is_shown_and_json_too(folder):
    assert invoke("why posture m001").stdout == (
        "m001 of posture: finished after 5 epochs\nnothing was decided about it\n"
    )
    assert json.loads(invoke("why posture m001 --json").stdout)["decided"] == []


def test_a_value_is_json_or_else_text():
    said = ["a=1", "b=1e-4", "c=true", "d=adamw", 'e="1"', "f=[1,2]", "g=null", "h=a=b", "i="]
    assert list(values_of("add", said).values()) == [1, 1e-4, True, "adamw", "1", [1, 2], None, "a=b", ""]


def test_a_range_is_drawn_as_its_bounds_suggest():
    assert space_of(["a=1e-5..1e-3", "b=0.1..0.5", "c=1..4", "d=[1,2]", "e=-1.0..1.0"], None) == {
        "a": LogUniform(1e-5, 1e-3), "b": Uniform(0.1, 0.5), "c": RandInt(1, 5), "d": [1, 2], "e": Uniform(-1.0, 1.0)
    }  # fmt: skip
    assert space_of(["a=1e-5..1e-3"], False) == {"a": Uniform(1e-5, 1e-3)}
    assert space_of(["a=0.1..0.5", "b=1..64"], True) == {"a": LogUniform(0.1, 0.5), "b": RandInt(1, 65, log=True)}
