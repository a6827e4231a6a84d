"""What the recorder makes of events: the same rows whether they are written one by one or together."""

import threading
from contextlib import closing

import pytest

from cerebro.execution.engine import StateHandle
from cerebro.execution.recorder import Lineage, Origin, Recorder, _Entry
from cerebro.execution.resume import Finish
from cerebro.ids import digest_bytes
from cerebro.messages import Ruling, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.storage.catalog import Catalog
from cerebro.storage.checkpoints import Checkpoints

LINEAGE = Lineage("p" * 64, "f" * 64, {"m001": "c1", "m002": "c2"}, ("s0", "s1"), ("v0",))
MEMBERS = {model: {"config": {}, "repeat": 0, "ancestor": None} for model in ("m001", "m002")}
FINISH = Finish(train_visits=2, valid_visits=1)
EXPERIMENT = {
    "name": "kept", "spec": {}, "plan_id": "p" * 64, "metric": "accuracy", "mode": "max", "epochs": 1,
    "fingerprint": {}, "data": "kept.shards", "source": None,
}  # fmt: skip


class Bytes(StateHandle):
    def __init__(self, content: bytes) -> None:
        self.content, self.released = content, False

    def view(self) -> memoryview:
        assert not self.released
        return memoryview(self.content)

    def release(self) -> None:
        assert not self.released
        self.released = True


def ended(model, kind, position, seconds=0.25):
    unit = Unit(model, kind, 1, position, position)
    event = UnitFinished(unit, 0, 1.0, seconds, 32, {"loss": [1.5, 32]}, {"loss": 1.5 / 32, "accuracy": 0.5})
    return event, Bytes(f"{model} {position}".encode()) if kind == "train" else None


def happenings():
    """A model to its end, and another that fails after a unit."""
    return [
        (WorkerJoined(0, {"threads": 1}), None),
        ended("m001", "train", 0),
        ended("m002", "train", 0),
        ended("m001", "train", 1),
        (UnitFailed(Unit("m002", "train", 1, 1, 1), 0, "diverged", "the loss became nan", "in loss"), None),
        (WorkerLost(0, "killed", None), None),
        ended("m001", "valid", 0),
        (Ruling("model finished", "engine", "m001", 1, 1), None),
    ]


def recorded(folder, behind_max, together=False):
    """What a catalog holds after it all, but for moments; and the states that are left."""
    folder.mkdir()
    Catalog.create(folder, EXPERIMENT, MEMBERS)
    events = happenings()
    with closing(Catalog(folder)) as catalog:
        lineage = Lineage("p" * 64, "f" * 64, {"m001": "c1", "m002": "c2"}, ("s0", "s1"), ("v0",))
        recorder = Recorder(catalog, Checkpoints(folder / "states"), lineage, FINISH, Origin(1, 0.0), {}, behind_max)
        if together:
            recorder._entries.extend(_Entry(event, state) for event, state in events)
        else:
            for event, state in events:
                recorder.record(event, state)
        recorder.close()
        assert all(state is None or state.released for _, state in events)
        assert catalog.broken() == []
        logged = [(event["kind"], event["body"]) for event in catalog.events()]
        checkpoints = {model: row["state_digest"] for model, row in catalog.last_checkpoints().items()}
        return (
            catalog.models(),
            catalog.units(),
            catalog.metrics(),
            logged,
            checkpoints,
            recorder._checkpoints.digests(),
        )


@pytest.mark.parametrize(("behind_max", "together"), [(2, False), (8, False), (8, True)])
def test_rows_do_not_depend_on_what_is_written_together(tmp_path, behind_max, together):
    assert recorded(tmp_path / "many", behind_max, together) == recorded(tmp_path / "one", 1)


def test_a_models_row_says_where_it_ended(tmp_path):
    (first, second), units, metrics, logged, checkpoints, states = recorded(tmp_path / "store", 8, together=True)
    last, other = digest_bytes(b"m001 1"), digest_bytes(b"m002 0")
    assert (first["status"], first["epochs"], first["seconds"], first["state_digest"]) == ("finished", 1, 0.75, last)
    assert (second["status"], second["epochs"], second["seconds"]) == ("diverged", 0, 0.25)
    assert (second["state_digest"], second["error"]) == (other, "the loss became nan")
    assert (checkpoints, states) == ({"m001": last, "m002": other}, {last, other})
    assert [unit.parent_digest for unit in units] == [None, digest_bytes(b"m001 0"), last, None]
    assert [(row["split"], row["name"]) for row in metrics] == [
        ("train", "accuracy"), ("train", "loss"), ("valid", "accuracy"), ("valid", "loss"),
    ]  # fmt: skip
    assert [kind for kind, _ in logged] == ["worker joined", "model diverged", "worker lost", "model finished"]


def test_room_for_finished_units_is_made_of_those_that_are_durable(tmp_path, monkeypatch):
    Catalog.create(tmp_path, EXPERIMENT, MEMBERS)
    durable, write_all, may_write = list[str](), Checkpoints.write_all, threading.Event()

    def slow(checkpoints, states):
        may_write.wait()
        write_all(checkpoints, states)
        durable.extend(states)

    monkeypatch.setattr(Checkpoints, "write_all", slow)
    with closing(Catalog(tmp_path)) as catalog:
        recorder = Recorder(catalog, Checkpoints(tmp_path / "states"), LINEAGE, FINISH, Origin(1, 0.0), {}, 2)
        for event, state in (ended("m001", "train", 0), ended("m002", "train", 0)):
            recorder.make_room(1)  # there is room for two: nothing waits
            recorder.record(event, state)
        threading.Timer(0.05, may_write.set).start()
        recorder.make_room(1)
        assert digest_bytes(b"m001 0") in durable
        recorder.make_room(5)  # more than there ever is: none waits then
        assert durable == [digest_bytes(b"m001 0"), digest_bytes(b"m002 0")]
        recorder.close()
