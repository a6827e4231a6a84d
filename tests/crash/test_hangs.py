"""A worker that hangs is killed, and its unit is run again with the same bits."""

import signal
from contextlib import closing
from dataclasses import replace

from cerebro.storage.store import Store
from cerebro.testing.faults import digests
from tests.faults import LATER, SOUND, build_faulty, counting, in_loss, killing_once
from tests.faults import experiment as of_codes
from tests.nets import build_cnn


def loop_for_ever(*arguments):
    while True:
        pass


def build_endless(config):
    """What the config's code names, or a model that never comes to the end of a batch of its second epoch."""
    if config["code"] != "infinite loop":
        return build_faulty(config)
    return in_loss(loop_for_ever, LATER)(counting(build_cnn({"lr": 0.01})))


def losses_of_workers(store, name):
    with closing(Store(store).experiment(name).reader()) as reader:
        return [event["body"] for event in reader.events() if event["kind"] == "worker lost"]


def test_a_config_that_never_ends_fails_alone(shards, tmp_path, monkeypatch):
    """Its unit may take the floor, twice and four times as long; then its model is given up."""
    endless = replace(of_codes("endless", shards, ("infinite loop", *SOUND)), build=build_endless)
    endless.explain(workers=1, store=tmp_path / "store")  # the pilot is no part of this, nor the first import of torch
    monkeypatch.setattr("cerebro.execution.deadlines.FLOOR_SECONDS", 2.0)  # a sound unit has its time on a busy machine
    endless.fit(workers=2, store=tmp_path / "store", progress=False)
    of_codes("sound", shards, SOUND).fit(engine="inline", store=tmp_path / "store", progress=False)

    with closing(Store(tmp_path / "store").experiment("endless").reader()) as reader:
        hung, *others = reader.models()
    assert (hung["status"], hung["epochs"], hung["traceback"]) == ("failed", 1, "")
    assert hung["error"].startswith("3 workers died on")
    sound = digests(tmp_path / "store", "sound").values()
    assert [(row["status"], row["state_digest"]) for row in others] == list(sound)
    lost = losses_of_workers(tmp_path / "store", "endless")
    assert [loss["model"] for loss in lost] == [hung["model"]] * 3
    assert all(loss["cause"].startswith("no progress for ") for loss in lost)


def test_a_stopped_worker_is_replaced_and_no_bit_changes(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("cerebro.execution.deadlines.FLOOR_SECONDS", 5.0)
    flag = tmp_path / "hang"

    disturbed = replace(experiment, build=killing_once(experiment.build, flag, signal.SIGSTOP), epochs=1)
    disturbed.explain(workers=1, store=tmp_path / "store")  # the pilot is not to hang
    flag.touch()
    disturbed.fit(workers=2, store=tmp_path / "store", progress=False)
    disturbed.fit(engine="inline", store=tmp_path / "undisturbed", progress=False)
    assert digests(tmp_path / "store", "signals") == digests(tmp_path / "undisturbed", "signals")
    causes = [loss["cause"] for loss in losses_of_workers(tmp_path / "store", "signals")]
    assert causes
    assert all(cause.startswith("no progress for ") for cause in causes)
