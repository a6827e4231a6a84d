"""A worker process: takes units from its driver, runs them, and writes the states into shared memory."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from cerebro.engines.border import guarded, run_launch, run_pilot
from cerebro.engines.channel import Channel, ChannelClosed
from cerebro.errors import InternalError
from cerebro.messages import Event, Launch, Message, Pilot, UnitFailed, UnitFinished, WorkerJoined, from_json, to_json
from cerebro.plan.features import features_of
from cerebro.plan.program import Program, member_of
from cerebro.training.devices import one_thread, steady_cudnn
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
    reply: dict[str, Any] = {"ended": [(to_json(WorkerJoined(number, fingerprint(setup["device"]))), 0)]}
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
            ended = [
                (to_json(event), size)
                for event, size in _carried_out(trainer, from_json(request["command"]), request, slots)
            ]
            reply = {"ended": ended}
        except ShardError as error:
            reply = {"damaged_data": str(error)}


def _carried_out(
    trainer: Trainer, command: Message, request: Mapping[str, Any], slots: Mapping[int, Slot]
) -> Sequence[tuple[Event, int]]:
    match command:
        case Pilot():
            return [(run_pilot(trainer, command), 0)]
        case Launch():
            return _run(trainer, command, request, slots)
        case _:
            raise InternalError(f"not for a worker: {command}")


def _prepared(setup: Mapping[str, Any], code: bytes) -> Trainer:
    sys.path[:] = setup["sys_path"]
    os.chdir(setup["folder"])
    one_thread()
    steady_cudnn()
    members = {model: member_of(member) for model, member in setup["members"].items()}
    program = Program(build=cloudpickle.loads(code), data=Path(setup["data"]), members=members, **setup["program"])
    return Trainer(program, setup["device"])


def _run(
    trainer: Trainer, launch: Launch, request: Mapping[str, Any], slots: Mapping[int, Slot]
) -> list[tuple[UnitFinished | UnitFailed, int]]:
    """How the units of a launch ended, each with the bytes of the state that it left in its slot."""
    parents = [slots[source].view(size) if size else None for source, size in request["sources"]]
    targets = dict(zip((unit.model for unit in launch.units), request["targets"], strict=True))
    sizes = dict[str, int]()

    def keep(trainer: Trainer, model: str) -> int:
        sizes[model] = trainer.write_state(model, slots[targets[model]].room_for)
        return sizes[model]

    events = run_launch(trainer, launch, parents, [tuple(prior) for prior in request["priors"]], keep)
    return [(event, sizes.get(event.unit.model, 0)) for event in events]
