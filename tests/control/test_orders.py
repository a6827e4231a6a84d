"""Orders as lines of JSON: what is written is read back, and nothing else is taken."""

import dataclasses
import json
import math

import pytest

import cerebro
from cerebro.commands import COMMANDS, Add, Clone, Command, Extend, Finish, Note, Resume, Stop
from cerebro.control.forms import BODIES
from cerebro.control.orders import (
    LIMIT_BYTES,
    Order,
    Reply,
    Request,
    new_order,
    order_text,
    parse_order,
    parse_reply,
    parse_request,
    reply_text,
    request_text,
)
from tests.test_project import modules_after

COMMANDS_GIVEN: list[Command] = [
    Add({"lr": 1e-3, "head": {"kind": "mean", "sizes": [1, 2]}, "bias": True, "name": "ü\n\u2028"}, until=3),
    Stop("m003"),
    Resume("m003", 4),
    Clone("m003", {"lr": 1e-4}, warm=False, optimizer="reset", at=2, until=5),
    Extend("m003", 2),
    Finish(),
    Note("the data of subject 3 look odd"),
]


def said(**changes: object) -> str:
    order = {"id": "0123456789abcdef", "ts": 1.5, "actor": "user", "note": "", "command": "stop"}
    return json.dumps({**order, "body": {"model": "m001"}, **changes})


@pytest.mark.parametrize("command", COMMANDS_GIVEN, ids=lambda command: type(command).__name__)
def test_an_order_is_read_back_as_it_was_written(command):
    order = new_order(command, actor="asha", note="why: ü")
    assert parse_order(order_text(order)) == order
    assert "\n" not in order_text(order)
    assert parse_request(request_text(Request(order, dry_run=True))) == Request(order, dry_run=True)


def test_the_form_of_a_command_has_the_fields_of_the_command():
    assert list(BODIES) == list(COMMANDS)
    for name, kind in COMMANDS.items():
        assert list(BODIES[name].model_fields) == [field.name for field in dataclasses.fields(kind)]


def test_the_keys_of_a_config_stay_in_their_order():
    order = parse_order(order_text(new_order(Add({"z": 1, "a": 2}))))
    assert isinstance(order.command, Add)
    assert list(order.command.config) == ["z", "a"]


def test_every_new_order_has_an_id_of_its_own():
    ids = {new_order(Finish()).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(id) == 16 and int(id, 16) >= 0 for id in ids)


def test_a_reply_is_read_back_as_it_was_written():
    for reply in (Reply(True, False, "stops m003", "0" * 16), Reply(False, False, "no\nmodel", error="StoreError")):
        assert parse_reply(reply_text(reply)) == reply
        assert "\n" not in reply_text(reply)


DEEP = "[" * 20_000 + "]" * 20_000
REFUSED = {
    "no JSON": ("stop m003", "order: 'stop m003' is not JSON"),
    "not an object": ("[1]", r"order: \[1\] is not an object; it takes id, ts, actor, note, command, body"),
    "an unknown command": (said(command="kill"), "order: command: 'kill' is not one of add, stop, resume, clone"),
    "no body": (said().replace('"body"', '"bode"'), "order: 'body' is missing"),
    "an unknown field": (said(priority=1), "order: there is no field 'priority'; it takes id, ts, actor"),
    "an id that is a path": (said(id="../../etc/passwd"), "id: '../../etc/passwd' is not 16 hexadecimal digits"),
    "an id and a line end": (said(id="0123456789abcdef\n"), "is not 16 hexadecimal digits"),
    "no time": (said(ts="now"), "ts: 'now' is not a number of seconds since 1970"),
    "an infinite time": (said(ts=math.inf), "Infinity is not a finite number"),
    "an actor in capitals": (said(actor="Ann Lee"), "actor: 'Ann Lee' is not a name"),
    "a long note": (said(note="n" * 10_001), "is not text of at most 10,000 characters"),
    "a number for a model": (said(body={"model": 3}), "stop: model: 3 is not the id of a model, such as 'm003'"),
    "a path for a model": (said(body={"model": "../m1"}), "model: '../m1' is not a name"),
    "no model": (said(body={}), "stop: 'model' is missing; it takes model"),
    "a field too many": (said(body={"model": "m001", "now": True}), "stop: there is no field 'now'; it takes model"),
    "epochs as text": (
        said(command="extend", body={"model": "m001", "epochs": "2"}),
        "extend: epochs: '2' is not a whole number of at least 1",
    ),
    "epochs that are true": (
        said(command="extend", body={"model": "m001", "epochs": True}),
        "extend: epochs: True is not a whole number of at least 1",
    ),
    "a config that is a list": (said(command="add", body={"config": [1]}), r"add: config: \[1\] is not a mapping"),
    "a number that is none": (
        said(command="add", body={"config": {"lr": math.nan}}),
        "order: NaN is not a finite number",
    ),
    "a number too large": (
        said(command="add", body={"config": {"lr": 0}}).replace(": 0}", ": 1e999}"),
        r"config\['lr'\]: inf is not a finite number",
    ),
    "a very long integer": (
        said(command="add", body={"config": {"lr": 0}}).replace(": 0}", f": {'9' * 5000}}}"),
        "is not JSON: Exceeds the limit",
    ),
    "an integer of more than 64 bits": (
        said(command="add", body={"config": {"n": 2**63}}),
        r"config\['n'\]: a whole number of more than 64 bits",
    ),
    "half a character": (
        said(command="add", body={"config": {"net": "\ud800"}}),
        r"config\['net'\]: '\\ud800' is not text",
    ),
    "lists in lists": (
        said(command="add", body={"config": {"a": json.loads("[" * 30 + "]" * 30)}}),
        "config: nested more than 16 deep",
    ),
    "so deep that a reader falls over": (said().replace('""', DEEP), "nested too deep to be read"),
    "a key twice": ('{"id": "a", "id": "b"}', "order: 'id' is said twice"),
    "more than the limit": (said(note="ü" * LIMIT_BYTES), "order: it has .* bytes, and 65,536 are allowed"),
    "an optimizer by name": (
        said(command="clone", body={"model": "m001", "changes": {}, "optimizer": "sgd"}),
        "clone: optimizer: 'sgd' is not 'keep' or 'reset'; a hyper-parameter of that name belongs into the changes",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_order_is_refused_with_what_is_allowed(text, message):
    with pytest.raises(cerebro.SpecError, match=message):
        parse_order(text)


def test_a_command_that_is_not_json_is_refused_before_it_is_sent():
    for value in (object(), {1, 2}, math.nan):
        with pytest.raises(cerebro.SpecError, match=r"add: .*a config holds finite numbers"):
            order_text(new_order(Add({"lr": value})))


def test_pydantic_is_loaded_only_where_something_is_parsed():
    assert "pydantic" not in modules_after("import cerebro.control.orders")


def test_an_order_cannot_be_changed():
    order = Order("0" * 16, Finish(), ts=0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        order.actor = "asha"  # type: ignore[misc]
