"""The inbox: what was put is there, in order, once; what was not put whole is not there."""

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cerebro
from cerebro.storage import inbox as module
from cerebro.storage.inbox import DAMAGED, Inbox

DIES = """
import os, pathlib, signal, sys
from cerebro.storage.inbox import Inbox
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{instead}
Inbox(pathlib.Path(sys.argv[1])).put("dead", "never whole")
"""


def test_nothing_is_pending_before_anything_was_put(tmp_path):
    assert Inbox(tmp_path).pending() == []
    assert list(tmp_path.iterdir()) == []


def test_what_was_put_is_pending_in_its_order(tmp_path):
    for number in (3, 1, 2):
        Inbox(tmp_path).put(f"id{number}", f"text {number}")
    assert Inbox(tmp_path).pending() == [("id3", "text 3"), ("id1", "text 1"), ("id2", "text 2")]


def test_the_order_is_kept_when_the_first_are_taken(tmp_path):
    inbox = Inbox(tmp_path)
    for number in range(4):
        inbox.put(f"a{number}", "")
    inbox.remove(["a0", "a2", "never put"])
    inbox.put("b", "")
    assert [id for id, _ in inbox.pending()] == ["a1", "a3", "b"]


def test_the_same_id_twice_is_once(tmp_path):
    inbox = Inbox(tmp_path)
    inbox.put("same", "first")
    inbox.put("other", "")
    inbox.put("same", "second")
    assert inbox.pending() == [("same", "first"), ("other", "")]


def test_many_who_put_at_once_lose_nothing(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Inbox(tmp_path).put(f"id{number % 20}", str(number % 20)), range(40)))
    assert sorted(Inbox(tmp_path).pending()) == sorted((f"id{number}", str(number)) for number in range(20))
    numbers = [name.partition("-")[0] for name in os.listdir(tmp_path / "inbox") if name != "lock"]
    assert len(set(numbers)) == 20


def test_only_the_user_may_read_it(tmp_path):
    Inbox(tmp_path).put("id", "text")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "inbox").iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "inbox").stat().st_mode) == 0o700


@pytest.mark.parametrize("instead", ["os.fsync = die", "pathlib.Path.rename = die"])
def test_a_death_between_writing_and_renaming_leaves_nothing_pending(tmp_path, instead):
    (tmp_path / "inbox").mkdir()
    died = subprocess.run([sys.executable, "-c", DIES.format(instead=instead), tmp_path], check=False)
    assert died.returncode == -9
    assert [path.name for path in (tmp_path / "inbox").glob(".tmp-*")] == [".tmp-000000000001-dead.json"]
    assert Inbox(tmp_path).pending() == []
    Inbox(tmp_path).put("alive", "whole")
    assert Inbox(tmp_path).pending() == [("alive", "whole")]
    assert sorted(os.listdir(tmp_path / "inbox")) == ["000000000001-alive.json", "lock"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    inbox = Inbox(tmp_path)
    inbox.put("before", "there")
    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(cerebro.StoreError, match=r"cannot write .*: No space left on device"):
        inbox.put("after", "not there")
    assert inbox.pending() == [("before", "there")]
    assert list((tmp_path / "inbox").glob(".tmp-*")) == []


def test_what_is_not_of_the_inbox_is_left_alone(tmp_path):
    inbox = Inbox(tmp_path)
    inbox.put("id", "text")
    for name in ("README", "1-short.json", ".tmp-1", "000000000009-CAPITALS.json"):
        (tmp_path / "inbox" / name).write_text("?")
    assert inbox.pending() == [("id", "text")]


def test_no_bit_of_what_waits_can_change_unseen(tmp_path):
    Inbox(tmp_path).put("id", '{"until": 3}')
    file = tmp_path / "inbox" / "000000000001-id.json"
    content = file.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        ((_, text),) = Inbox(tmp_path).pending()
        assert text.startswith(DAMAGED)
    file.write_bytes(content[:-1])
    assert Inbox(tmp_path).pending()[0][1].startswith(DAMAGED)


def test_what_could_not_be_made_durable_is_not_carried_out_later(tmp_path, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sync_folder", full)
    with pytest.raises(cerebro.StoreError, match="No space left on device"):
        Inbox(tmp_path).put("id", "told to have failed")
    assert Inbox(tmp_path).pending() == []


def test_an_id_that_is_a_path_is_refused(tmp_path):
    with pytest.raises(cerebro.SpecError, match="is not a name"):
        Inbox(tmp_path).put("../escaped", "text")
    assert list(Path(tmp_path).iterdir()) == []
