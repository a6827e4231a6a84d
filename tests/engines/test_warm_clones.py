"""The first unit of a warm clone has the same bits on every engine, with any number of workers and after a kill."""

from contextlib import closing
from pathlib import Path

import pytest

from cerebro.engines.inline import InlineEngine
from cerebro.engines.local import LocalEngine
from cerebro.execution.engine import Engine
from cerebro.messages import Launch, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import Ancestor, Member, Program
from tests.nets import build_any

CONFIGS = {"cnn": {"net": "cnn", "lr": 0.01}, "lstm": {"net": "lstm", "lr": 0.01}, "mlp": {"net": "mlp", "lr": 0.01}}
UNITS = [Unit("m002", "train", 1, position, position) for position in (1, 2, 3)]


def clone(net: str, choice) -> Member:
    return Member({**CONFIGS[net], "lr": 0.003}, ancestor=Ancestor("m001", "", choice, 1, (0,)))


def state_of(engine: Engine, model: str) -> bytes:
    handle = engine.state(model)
    state = bytes(handle.view())
    handle.release()
    return state


def states(engine: Engine, shards: Path, net: str, choice, workers: int = 1, kill: bool = False) -> list[bytes]:
    """The states of a model after its first unit, and of a clone of it after each of three."""
    durable = dict[str, bytes]()
    with closing(engine):
        engine.open(Program(build_any, shards, 0, {"m001": Member(CONFIGS[net])}), workers, durable.get)
        for _ in range(workers):
            assert isinstance(engine.wait(), WorkerJoined)
        engine.submit(Launch(Unit("m001", "train", 1, 0, 0), 0))
        assert isinstance(engine.wait(), UnitFinished)
        found = [state_of(engine, "m001")]
        durable["m002"] = found[0]
        engine.introduce("m002", clone(net, choice))
        for number, unit in enumerate(UNITS):
            worker = (number + 1) % workers
            engine.submit(Launch(unit, worker))
            if kill and number == 0:
                engine.kill_worker(worker)
            heard = [engine.wait()]
            while not any(isinstance(event, UnitFinished) for event in heard) or isinstance(heard[-1], WorkerLost):
                if isinstance(heard[-1], WorkerJoined):
                    engine.submit(Launch(unit, worker))
                heard.append(engine.wait())
            found.append(state_of(engine, "m002"))
    return found


@pytest.mark.parametrize("choice", ["keep", "reset"])
@pytest.mark.parametrize("net", CONFIGS)
def test_a_clone_is_the_same_on_any_engine_and_after_a_kill(net: str, choice, shards: Path):
    expected = states(InlineEngine(), shards, net, choice)
    assert states(LocalEngine(), shards, net, choice) == expected
    assert states(LocalEngine(), shards, net, choice, workers=2) == expected
    assert states(LocalEngine(), shards, net, choice, workers=2, kill=True) == expected


@pytest.mark.parametrize("engine", [InlineEngine, LocalEngine])
def test_a_clone_of_another_shape_fails_alone(engine: type[Engine], shards: Path):
    durable = dict[str, bytes]()
    members = {"m001": Member({"net": "mlp", "lr": 0.01})}
    wider = Member({"net": "mlp", "lr": 0.01, "width": 8}, ancestor=Ancestor("m001", "", "keep", 1, (0,)))
    with closing(engine()) as opened:
        opened.open(Program(build_any, shards, 0, members), 1, durable.get)
        opened.wait()
        opened.submit(Launch(Unit("m001", "train", 1, 0, 0), 0))
        opened.wait()
        durable["m002"] = state_of(opened, "m001")
        opened.introduce("m002", wider)
        opened.submit(Launch(UNITS[0], 0))
        failed = opened.wait()
        opened.submit(Launch(Unit("m001", "train", 1, 1, 1), 0))
        assert isinstance(opened.wait(), UnitFinished)
    assert isinstance(failed, UnitFailed)
    assert "1.weight: the state of the ancestor holds float32 (16, 60)" in failed.error
