"""Where experiments live: who holds one, and what of its folder a power cut may take."""

import fcntl
import os

import pytest

import cerebro
from cerebro.storage import checkpoints
from cerebro.storage.checkpoints import Checkpoints
from cerebro.storage.store import Store


def test_who_asks_whether_an_experiment_is_held_keeps_nobody_from_holding_it(tmp_path, monkeypatch):
    folder, flock = Store(tmp_path).experiment("watched"), fcntl.flock
    folder.path.mkdir()
    asking = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT)
    flock(asking, fcntl.LOCK_SH)

    def until_refused(lock, how):
        try:
            flock(lock, how)
        except BlockingIOError:
            flock(asking, fcntl.LOCK_UN)
            raise

    monkeypatch.setattr(fcntl, "flock", until_refused)
    with folder.held():
        assert folder.driver() == str(os.getpid())
        with pytest.raises(cerebro.StoreError, match=f"is being run by process {os.getpid()}"), folder.held():
            pass
    os.close(asking)


def test_every_folder_that_is_made_is_durable_in_the_one_above(tmp_path, monkeypatch):
    synced, sync_folder = [], checkpoints.sync_folder

    def noted(folder):
        synced.append((folder, sorted(path.name for path in folder.iterdir())))
        sync_folder(folder)

    monkeypatch.setattr(checkpoints, "sync_folder", noted)
    folder = Store(tmp_path / "deep" / "store").experiment("one")
    with folder.held():
        Checkpoints(folder.path / "states").write(memoryview(b"state"), "d" * 64)
        assert synced == [
            (tmp_path, ["deep"]),
            (tmp_path / "deep", ["store"]),
            (tmp_path / "deep" / "store", ["one"]),
            (folder.path, ["lock", "states"]),
            (folder.path / "states", ["d" * 64 + ".state"]),
        ]
