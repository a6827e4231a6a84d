"""The console: orders through a real socket, of good and of bad clients."""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import cerebro
from cerebro.commands import Clone, Finish, Stop
from cerebro.control import client, console
from cerebro.control.client import answers, drill_down, send
from cerebro.control.console import LINE_BYTES_MAX, SOCKET, Console, address, has_socket
from cerebro.control.orders import Reply, new_order, order_text, parse_order, parse_reply
from cerebro.control.validation import Facts
from cerebro.spec.space import loguniform, randint
from cerebro.storage.inbox import Inbox
from cerebro.storage.store import ExperimentFolder
from tests.control.steered import CONFIGS, facts, left_behind


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ExperimentFolder]:
    """An experiment that this process holds, as a run does."""
    found = left_behind(tmp_path)
    with found.held():
        yield found


def unasked() -> Facts:
    raise AssertionError("the run that is alive knows the facts")


@contextmanager
def connected(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection, address(folder) as name:
        connection.settimeout(30)
        connection.connect(name)
        yield connection


def say(folder: Path, line: bytes) -> Reply:
    with connected(folder) as connection:
        connection.sendall(line)
        with connection.makefile("rb") as answer:
            return parse_reply(answer.readline().decode())


def commands(folder: ExperimentFolder) -> list[object]:
    return [parse_order(text).command for _, text in Inbox(folder.path).pending()]


def test_an_accepted_order_is_in_the_inbox_before_it_is_answered(folder):
    woken = threading.Event()
    with Console(folder.path, facts, woken.set):
        order = new_order(Stop("m002"), note="enough")
        reply = send(folder, order, False, unasked)
    assert reply == Reply(True, False, reply.text, order.id)
    assert reply.text.startswith("stops m002 at the end of its unit")
    assert Inbox(folder.path).pending() == [(order.id, order_text(order))]
    assert woken.is_set()


def test_a_refused_order_is_the_same_error_as_without_a_run(folder):
    with Console(folder.path, facts):
        with pytest.raises(cerebro.StoreError, match="stop m001: it is finished"):
            send(folder, new_order(Stop("m001")), False, unasked)
        with pytest.raises(cerebro.SpecError, match="did you mean 'layers'"):
            send(folder, new_order(Clone("m001", {"layer": 1})), False, unasked)
    assert commands(folder) == []


def test_a_dry_run_is_told_and_not_queued(folder):
    with Console(folder.path, facts):
        reply = send(folder, new_order(Stop("m002")), True, unasked)
    assert reply.text.endswith("; it saves 2 epochs, about 4.0 s of one worker by its epochs so far")
    assert (reply.accepted, reply.queued, reply.order) == (True, False, None)
    assert commands(folder) == []


BAD = {
    "no JSON": (b"stop m003\n", "SpecError", "is not JSON"),
    "an order of another kind": (b'{"order": {"command": "rm"}}\n', "SpecError", "order: 'id' is missing"),
    "bytes that are no text": (b"\xff\xfe\n", "StoreError", "can't decode"),
    "an empty line": (b"\n", "SpecError", "is not JSON"),
    "more than the limit": (b"x" * (LINE_BYTES_MAX + 1), "SpecError", "bytes, and 65,536 are allowed"),
}


@pytest.mark.parametrize(("line", "error", "text"), BAD.values(), ids=BAD)
def test_a_bad_line_is_answered_and_the_next_client_served(folder, line, error, text):
    with Console(folder.path, facts):
        reply = say(folder.path, line)
        assert (reply.accepted, reply.error) == (False, error)
        assert text in reply.text
        assert send(folder, new_order(Finish()), False, unasked).accepted
    assert commands(folder) == [Finish()]


def test_a_client_that_says_nothing_or_leaves_is_in_nobodys_way(folder, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_SECONDS", 0.01)
    with Console(folder.path, facts), connected(folder.path) as silent, connected(folder.path) as gone:
        gone.close()
        assert silent.recv(1) == b""  # it was given up
        monkeypatch.undo()
        assert send(folder, new_order(Stop("m002")), False, unasked).accepted
    assert commands(folder) == [Stop("m002")]


def test_the_console_ends_while_a_client_is_silent(folder):
    with Console(folder.path, facts), connected(folder.path) as silent:
        silent.sendall(b"{")
    assert not has_socket(folder.path)


def test_an_error_in_the_facts_is_an_answer(folder):
    def broken() -> Facts:
        raise cerebro.StoreError("catalog.sqlite is damaged")

    def unreadable() -> Facts:
        raise OSError("too many open files")

    for asked, text in ((broken, "catalog.sqlite is damaged"), (unreadable, "too many open files")):
        with Console(folder.path, asked), pytest.raises(cerebro.StoreError, match=text):
            send(folder, new_order(Finish()), False, unasked)


def test_many_clients_at_once_are_all_served(folder):
    orders = [new_order(Clone("m002", {"layers": 10 + number})) for number in range(12)]
    with Console(folder.path, facts), ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda order: send(folder, order, False, unasked), orders))
    assert [reply.order for reply in replies] == [order.id for order in orders]
    assert sorted(id for id, _ in Inbox(folder.path).pending()) == sorted(order.id for order in orders)


def test_the_same_order_twice_is_queued_once(folder):
    order = new_order(Stop("m002"))
    with Console(folder.path, facts):
        assert send(folder, order, False, unasked).order == send(folder, order, False, unasked).order == order.id
    assert commands(folder) == [Stop("m002")]


def test_only_the_user_may_talk_to_it_whatever_the_mask(folder):
    before = os.umask(0)
    try:
        with Console(folder.path, facts):
            mode = (folder.path / SOCKET).stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_run_of_somebody_else_is_said_to_be_so(folder, monkeypatch):
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with Console(folder.path, facts):
        monkeypatch.setattr(client, "_connected", forbidden)
        with pytest.raises(cerebro.StoreError, match="the run of 'posture' is not yours: Permission denied"):
            send(folder, new_order(Finish()), False, unasked)
    assert commands(folder) == []


def test_the_socket_of_a_run_that_died_is_replaced(folder):
    for name in (SOCKET, ".control.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(folder.path / name))
    assert has_socket(folder.path)
    assert not answers(folder)
    with Console(folder.path, facts):
        assert answers(folder)
        assert send(folder, new_order(Finish()), False, unasked).accepted
    assert [path.name for path in folder.path.iterdir() if "control" in path.name] == []


def test_a_run_that_died_in_between_leaves_the_order_to_the_next(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(folder.path / SOCKET))
    reply = send(folder, new_order(Finish()), False, facts)
    assert (reply.accepted, reply.queued) == (True, True)
    assert f"process {os.getpid()} takes no orders yet" in reply.text
    assert commands(folder) == [Finish()]


def test_a_run_that_dies_before_it_answers_leaves_the_order_once(folder):
    order = new_order(Finish())

    def die(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            Inbox(folder.path).put(order.id, order_text(order))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder.path / SOCKET))
        listener.listen()
        dying = threading.Thread(target=die, args=[listener])
        dying.start()
        assert send(folder, order, False, facts).queued
        dying.join()
    assert commands(folder) == [Finish()]


def test_a_path_longer_than_a_socket_may_have_works(tmp_path):
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8)
    folder = left_behind(deep)
    assert len(os.fspath(folder.path / SOCKET)) > 200
    with folder.held(), Console(folder.path, facts):
        assert answers(folder)
        assert send(folder, new_order(Finish()), False, unasked).accepted
    assert commands(folder) == [Finish()]


def test_a_socket_that_cannot_be_made_is_one_clear_error(tmp_path):
    with (
        pytest.raises(cerebro.StoreError, match=r"cannot make .*control\.sock, where orders are taken"),
        Console(tmp_path / "nowhere", facts),
    ):
        pass


def test_without_a_run_the_order_waits_for_the_next(tmp_path):
    folder = left_behind(tmp_path)
    reply = send(folder, order := new_order(Finish()), False, facts)
    assert reply.text.endswith("; no run is alive: applied by the next `cerebro run`")
    assert (reply.queued, reply.order) == (True, order.id)
    assert commands(folder) == [Finish()]


def test_drilling_down_draws_new_configs_around_a_base():
    space = {"optimizer.lr": loguniform(1e-5, 1e-3), "layers": randint(1, 4)}
    drawn = drill_down(space, CONFIGS[0], 8, seed=3)
    assert drawn == drill_down(space, CONFIGS[0], 8, seed=3)
    assert drawn != drill_down(space, CONFIGS[0], 8, seed=4)
    assert len({str(config) for config in drawn}) == 8
    assert all(config["optimizer"]["kind"] == "adamw" for config in drawn)
    assert all(1e-5 <= config["optimizer"]["lr"] < 1e-3 and 1 <= config["layers"] < 4 for config in drawn)
    assert CONFIGS[0]["optimizer"]["lr"] == 0.1


def test_drilling_down_avoids_what_is_trained_already():
    assert drill_down({"layers": [1, 2, 3]}, CONFIGS[0], 1, seed=0, taken=CONFIGS) == [{**CONFIGS[0], "layers": 3}]
    with pytest.raises(cerebro.SpecError, match="space: it gives no more than 1 new config beside those"):
        drill_down({"layers": [1, 2, 3]}, CONFIGS[0], 2, seed=0, taken=CONFIGS)


@pytest.mark.parametrize(
    ("space", "count", "message"),
    [
        ({}, 1, "space: .* is not a space"),
        ({"lr": [1]}, 1, "did you mean 'optimizer.lr'"),
        ({"layers": [3]}, 0, "n: 0"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, count, message):
    with pytest.raises(cerebro.SpecError, match=message):
        drill_down(space, CONFIGS[0], count, seed=0)
