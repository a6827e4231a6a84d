"""Twelve commands of one person, through Python and through the command line: the same log, and the same models."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cerebro
from cerebro.cli import app
from cerebro.session import connect
from cerebro.session.handle import Handle
from tests.nets import build_mlp


@dataclass(frozen=True)
class Said:
    """One command, in both languages."""

    typed: str
    """Behind `cerebro`, for an experiment called `steered`."""
    called: Callable[[Handle], Any]
    is_refused: bool = False


WHILE_NOBODY_RUNS = (
    Said("stop steered m001 --note overfits", lambda handle: handle.stop("m001", "overfits")),
    Said("clone steered m001 lr=0.02", lambda handle: handle.clone("m001", lr=0.02)),
    Said("clone steered m002 lr=0.5 --cold", lambda handle: handle.clone("m002", lr=0.5, warm=False)),
    Said("extend steered m003 --epochs 1", lambda handle: handle.extend("m003", 1)),
    Said("add steered lr=0.05 width=8", lambda handle: handle.add({"lr": 0.05, "width": 8})),
    Said("stop steered m099", lambda handle: handle.stop("m099"), is_refused=True),
)
WHILE_A_UNIT_RUNS = (
    Said("resume steered m001 --until 2", lambda handle: handle.resume("m001", until=2)),
    Said(
        "add steered --from-space lr=1e-3..1e-1 -n 2 --like m002 --seed 7",
        lambda handle: handle.add_from_space({"lr": cerebro.loguniform(1e-3, 1e-1)}, 2, like="m002", seed=7),
    ),
    Said(
        "clone steered m003 lr=0.3 --warm --optimizer reset",
        lambda handle: handle.clone("m003", lr=0.3, optimizer="reset"),
    ),
    Said("note steered odd --model m002", lambda handle: handle.note("odd", "m002")),
    Said("finish steered", lambda handle: handle.finish()),
)
AFTER_THE_END = (Said("resume steered m009 --note promising", lambda handle: handle.resume("m009", note="promising")),)


def by_python(said: Said, store: Path) -> str | None:
    """Give a command; gives why it was refused, if it was."""
    try:
        said.called(connect("steered", store))
    except cerebro.CerebroError as error:
        return str(error)
    return None


def by_command_line(said: Said, store: Path) -> str | None:
    """As `by_python`."""
    shown = CliRunner().invoke(app, [*said.typed.split(), "--store", str(store)])
    if isinstance(shown.exception, cerebro.CerebroError):
        return str(shown.exception)
    assert shown.exit_code == 0, shown.output
    return None


class Gate:
    """Holds a run in the first batch that it trains while the gate is shut."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(60)


_gates: list[Gate] = []


def gated_loss(learner: cerebro.Learner, module: Any, batch: Any) -> Any:
    for gate in _gates:
        gate.pass_through()
    return learner.loss(module, batch)


def build(config: Any) -> cerebro.Learner:
    learner = build_mlp(config)
    return replace(learner, loss=partial(gated_loss, learner))


@pytest.fixture
def gate() -> Iterator[Gate]:
    _gates.append(gate := Gate())
    yield gate
    gate.opened.set()
    _gates.clear()


def logged(handle: Handle) -> list[tuple[str, Any]]:
    """Everything that happened but for times, ids and what a machine costs."""
    return [(event["kind"], _lasting(event["body"])) for event in handle.events()]


_PASSING = ("order", "seconds", "worker_seconds", "unit_seconds", "kwh", "kwh_is_estimate", "fingerprint")


def _lasting(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in _PASSING}


def scenario(shards: Path, store: Path, gate: Gate, give: Callable[[Said, Path], str | None]) -> Any:
    """A run that a budget ends, one that is steered while it is alive, and a last one; gives all that is left."""
    search = cerebro.Grid({"lr": [0.1, 0.01, 0.001], "width": [8]})
    experiment = cerebro.Experiment(
        "steered", data=shards, build=build, search=search, epochs=3, metric="accuracy", mode="max"
    )
    gate.opened.set()
    experiment.fit(engine="inline", workers=1, store=store, progress=False, fuse=False, budget="epochs=4")
    refused = [give(said, store) for said in WHILE_NOBODY_RUNS]
    gate.opened.clear()
    gate.reached.clear()
    running = experiment.start(engine="inline", workers=1, store=store, progress=False, fuse=False)
    assert gate.reached.wait(60)
    next(event for event in running.watch(timeout=60, after=0) if event["body"].get("note") == "overfits")
    refused += [give(said, store) for said in WHILE_A_UNIT_RUNS]
    gate.opened.set()
    running.wait()
    refused += [give(said, store) for said in AFTER_THE_END]
    result = experiment.fit(engine="inline", workers=1, store=store, progress=False, fuse=False)
    with closing(result.folder.reader()) as reader:
        commands = [(row["command"], row["actor"]) for row in reader.rows("commands", order="seq")]
    return refused, logged(running), commands, list(map(untimed, result.leaderboard()))


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "seconds": None}


def test_twelve_commands_leave_the_same_log_whether_they_are_called_or_typed(shards, tmp_path, gate):
    called = scenario(shards, tmp_path / "called", gate, by_python)
    typed = scenario(shards, tmp_path / "typed", gate, by_command_line)
    assert typed == called
    refused, events, commands, rows = called
    given = (*WHILE_NOBODY_RUNS, *WHILE_A_UNIT_RUNS, *AFTER_THE_END)
    assert len(given) == 12
    assert [reason is not None for reason in refused] == [said.is_refused for said in given]
    # Every command but the refused one is in the log, the space as its two models; all of one person.
    assert [name for name, _ in commands if name != "run"] == [
        "stop", "clone", "clone", "extend", "add", "resume", "add", "add", "clone", "note", "finish", "resume"
    ]  # fmt: skip
    assert {kind for kind, _ in events} >= {"stopped", "cloned", "extended", "added", "note", "resumed", "finish"}
    assert {row["model"]: row["epochs"] for row in rows if row["status"] == "finished"} == {"m009": 3}
    assert len(rows) == 9
