"""A worker that hangs is killed, and its unit is run again with the same bits."""

import os
import signal
from dataclasses import replace
from functools import partial

from cerebro.storage.store import Store
from cerebro.testing.faults import digests


def stop_once(flag, loss, module, batch):
    """Stops its own process as if it hung, the first time after `flag` was made."""
    if flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return loss(module, batch)


def test_a_stopped_worker_is_replaced_and_no_bit_changes(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("cerebro.execution.deadlines.FLOOR_SECONDS", 2.0)
    flag = tmp_path / "hang"

    def build(config):
        learner = experiment.build(config)
        return replace(learner, loss=partial(stop_once, flag, learner.loss))

    disturbed = replace(experiment, build=build, epochs=1)
    disturbed.explain(workers=1, store=tmp_path / "store")  # the pilot is not to hang
    flag.touch()
    disturbed.fit(workers=2, store=tmp_path / "store", progress=False)
    disturbed.fit(engine="inline", store=tmp_path / "undisturbed", progress=False)
    assert digests(tmp_path / "store", "signals") == digests(tmp_path / "undisturbed", "signals")
    events = Store(tmp_path / "store").experiment("signals").reader().events()
    causes = [event["body"]["cause"] for event in events if event["kind"] == "worker lost"]
    assert causes
    assert all(cause.startswith("no progress for ") for cause in causes)
