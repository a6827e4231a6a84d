"""What fails between two writes, or at the very end: nothing is done twice, nothing is told that is not so."""

import errno
import json
from contextlib import closing
from pathlib import Path

import pytest

import cerebro
from cerebro.ids import digest_bytes
from cerebro.session import connect
from cerebro.session.export import CARD, export, load
from cerebro.storage.catalog import Catalog
from cerebro.storage.checkpoints import Checkpoints
from cerebro.storage.inbox import Inbox
from tests.nets import build_any


@pytest.fixture
def two(shards):
    """Two models, two epochs."""
    search = cerebro.Grid({"net": ["mlp"], "lr": [0.01, 0.001]})
    return cerebro.Experiment(
        "ends", data=shards, build=build_any, search=search, epochs=2, metric="accuracy", mode="max"
    )


def fit(experiment, store, **more):
    return experiment.fit(engine="inline", workers=2, store=store, progress=False, **more)


def full(*arguments, **more):
    raise cerebro.StoreError("the disk is full")


ORDERS = {
    "extend": lambda handle: handle.extend("m002", 1),
    "clone": lambda handle: handle.clone("m001", lr=0.1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_was_carried_out_and_is_still_there_is_not_carried_out_again(two, tmp_path, monkeypatch, name):
    for store in (tmp_path / "calm", tmp_path / "store"):
        fit(two, store)
        ORDERS[name](connect("ends", store))
    monkeypatch.setattr(Inbox, "remove", full)  # as if the driver had died before it
    with pytest.raises(cerebro.StoreError, match="the disk is full"):
        fit(two, tmp_path / "store")
    monkeypatch.undo()
    result = fit(two, tmp_path / "store")
    assert rows(result) == rows(fit(two, tmp_path / "calm"))
    assert Inbox(result.folder.path).pending() == []


def rows(result):
    return [(row["model"], row["status"], row["epochs"], row["state_digest"]) for row in result.leaderboard()]


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace('"id":"', '"id":"0')])
def test_a_damaged_order_is_refused_in_the_log(two, tmp_path, damage):
    before = rows(fit(two, tmp_path))
    handle = connect("ends", tmp_path)
    handle.extend("m002", 1)
    (file,) = (tmp_path / "ends" / "inbox").glob("*.json")
    file.write_text(damage(file.read_text()))
    assert rows(fit(two, tmp_path)) == before
    (refused,) = (event["body"] for event in handle.events() if event["kind"] == "refused")
    assert refused["why"]["reason"].startswith("the order is damaged, give it again: ")
    assert Inbox(tmp_path / "ends").pending() == []


def test_an_end_that_cannot_be_noted_is_told(two, tmp_path, monkeypatch):
    set_experiment = Catalog.set_experiment

    def fails_at_the_end(catalog, **fields):
        if fields.get("status") == "finished":
            full()
        set_experiment(catalog, **fields)

    monkeypatch.setattr(Catalog, "set_experiment", fails_at_the_end)
    with pytest.raises(cerebro.StoreError, match="the disk is full"):
        fit(two, tmp_path)
    assert connect("ends", tmp_path).status == "interrupted"
    monkeypatch.undo()
    assert fit(two, tmp_path).folder.is_finished


def test_a_state_that_the_disk_cannot_read_is_computed_again(two, tmp_path, monkeypatch):
    whole = rows(fit(two, tmp_path / "calm"))
    fit(two, tmp_path, budget=cerebro.Budget(epochs=2))
    bad = min((tmp_path / "ends" / "states").iterdir())
    read_bytes = Path.read_bytes

    def read(path):
        if path == bad and path.stat().st_ino == inode:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    inode = bad.stat().st_ino
    monkeypatch.setattr(Path, "read_bytes", read)
    assert rows(fit(two, tmp_path)) == whole
    assert "checkpoint damaged" in {event["kind"] for event in connect("ends", tmp_path).events()}


def test_an_export_from_a_live_run_is_of_one_moment(two, tmp_path, monkeypatch):
    folder, read = fit(two, tmp_path).folder, Checkpoints.read
    with closing(folder.reader()) as reader:
        newest = reader.last_checkpoints()
    state = read(folder.checkpoints, newest["m002"]["state_digest"])

    def overtaken(checkpoints, state_digest):
        """The driver comes to a newer state, and removes the old one, before it is read."""
        monkeypatch.undo()
        with closing(Catalog(folder.path)) as catalog, catalog.transaction():
            catalog.add_checkpoint("m001", 3, 0, digest_bytes(state), len(state))
            catalog.drop_older_checkpoints("m001", 3, 0)
            catalog.set_model("m001", state_digest=digest_bytes(state))
        folder.checkpoints.remove(state_digest)
        return read(checkpoints, state_digest)

    monkeypatch.setattr(Checkpoints, "read", overtaken)
    exported = export(folder, "m001", tmp_path / "exported")
    assert json.loads((exported / CARD).read_text())["state_digest"] == digest_bytes(state)
    assert load(exported).tensors.keys() == load(export(folder, "m002", tmp_path / "other")).tensors.keys()
