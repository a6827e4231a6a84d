"""A worker process: takes units from its driver, runs them, and writes the states into shared memory."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from cerebro.engines.border import guarded, run_pilot, run_unit
from cerebro.engines.channel import Channel, ChannelClosed
from cerebro.messages import Unit, WorkerJoined, to_json
from cerebro.plan.features import features_of
from cerebro.plan.program import Program, member_of
from cerebro.training.devices import one_thread
from cerebro.training.fingerprint import fingerprint
from cerebro.training.trainer import ShardError, Trainer
from cerebro.training.transport import Slot


def main(channel: Channel) -> None:
    """Serve one driver until it closes the channel; ends at once if the driver dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel.on_hang_up(lambda: os._exit(0))
    with contextlib.suppress(ChannelClosed):
        _serve(channel)
    sys.stdout.flush()
    sys.stderr.flush()


def _serve(channel: Channel) -> None:
    setup = json.loads(channel.receive()[0])
    code, _ = channel.receive()
    number: int = setup["worker"]
    # The user's modules are imported here.
    prepared = guarded(
        lambda: _prepared(setup, code), lambda line, trace, error: {"error": line, "traceback": trace}, BaseException
    )
    if isinstance(prepared, dict):
        channel.send(json.dumps(prepared).encode())
        return
    trainer = prepared
    reply = {"event": to_json(WorkerJoined(number, fingerprint(setup["device"])))}
    slots: dict[int, Slot] = {}
    while True:
        channel.send(json.dumps(reply).encode())
        frame, descriptors = channel.receive()
        request = json.loads(frame)
        for slot, descriptor in zip(request["new_slots"], descriptors, strict=True):
            slots[slot] = Slot(slot, descriptor)
        for model, member in request["new_members"].items():
            trainer.introduce(model, member_of(member))
        if "features" in request:
            trainer.prefer(features_of(request["features"]))
        try:
            if "pilot" in request:
                reply = {"event": to_json(run_pilot(trainer, worker=number, **request["pilot"]))}
            else:
                reply = _run(trainer, number, request, slots)
        except ShardError as error:
            reply = {"damaged_data": str(error)}


def _prepared(setup: Mapping[str, Any], code: bytes) -> Trainer:
    sys.path[:] = setup["sys_path"]
    os.chdir(setup["folder"])
    one_thread()
    members = {model: member_of(member) for model, member in setup["members"].items()}
    program = Program(build=cloudpickle.loads(code), data=Path(setup["data"]), members=members, **setup["program"])
    return Trainer(program, setup["device"])


def _run(trainer: Trainer, worker: int, request: Mapping[str, Any], slots: Mapping[int, Slot]) -> dict[str, Any]:
    unit, source = Unit(**request["unit"]), request["source"]
    parent = slots[source].view(request["source_bytes"]) if source is not None else None
    written: list[int] = []

    def keep(trainer: Trainer) -> int:
        written.append(trainer.write_state(slots[request["target"]].room_for))
        return written[0]

    event = run_unit(trainer, unit, worker, parent, request["prior"], keep)
    return {"event": to_json(event), "state_bytes": written[0] if written else 0}
