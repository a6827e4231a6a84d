"""`--budget` and `cerebro bill`, as a person at a terminal uses them."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cerebro.cli import app
from cerebro.messages import Unit
from cerebro.session import source
from tests.report.catalogs import create, finish, unit_row

OPTIONS = (
    "workers", "engine", "device", "policy", "features", "fuse", "fork", "tapes",
    "shard_memory", "budget", "models", "store",
)  # fmt: skip


def invoke(*command: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)


class Declared:
    """An experiment that remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def fit(self, **options: Any) -> "Declared":
        self.asked.append(("fit", options))
        return self

    def explain(self, stage: str, **options: Any) -> str:
        self.asked.append((stage, options))
        return "Select\n└─ Hop"

    def leaderboard(self) -> list[Any]:
        return []


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Declared:
    found = Declared()
    monkeypatch.setattr(source, "load_experiment", lambda file: found)
    return found


def test_run_and_explain_take_the_same_options(declared: Declared):
    given = (
        "--workers",
        2,
        "--engine",
        "inline",
        "--device",
        "cpu",
        "--policy",
        "random",
        "--features",
        "share",
        "--no-fuse",
        "--no-fork",
        "--no-tapes",
        "--models",
        "continue",
        "--shard-memory",
        "2GB",
        "--store",
        "there",
    )
    where, limits = (2, "inline", "cpu", "random", "share"), ("2GB", "time=2h,epochs=40", "continue", "there")
    options = dict(zip(OPTIONS, (*where, False, False, False, *limits), strict=True))
    invoke("run", "file.py", *given, "--budget", "time=2h,epochs=40", "--json")
    invoke("explain", "file.py", *given, "--budget", "time=2h,epochs=40", "--stage", "logical")
    assert declared.asked == [("fit", options), ("logical", {**options, "why": False})]


def test_without_options_both_say_what_the_defaults_are(declared: Declared):
    defaults = dict(
        zip(
            OPTIONS,
            (None, "local", "auto", "longest-remaining", "auto", True, True, True, None, None, None, None),
            strict=True,
        )
    )
    assert json.loads(invoke("explain", "file.py", "--json").stdout) == {
        "stage": "physical",
        "plan": ["Select", "└─ Hop"],
    }
    assert invoke("run", "file.py", "--json").stdout == "[]\n"
    assert declared.asked == [("physical", {**defaults, "why": False}), ("fit", defaults)]


@pytest.mark.parametrize("command", ["run", "explain"])
def test_help_shows_the_shared_options_and_what_the_command_does(command: str):
    text = invoke(command, "--help").stdout
    assert [option for option in (*OPTIONS, "json") if f"--{option.replace('_', '-')}" not in text] == []
    assert inspect.cleandoc({"run": "Train every model", "explain": "Show the plan"}[command]) in text


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one experiment of two models, of which one has won."""
    (tmp_path / "posture").mkdir()
    catalog = create(tmp_path / "posture", [{"lr": 1}, {"lr": 2}])
    budget = {"run": 1, "workers": 1, "device": "cpu", "budget": {"price": 3600.0}}
    catalog.add_event("user", "run started", budget)
    for started, model in enumerate(("m001", "m002")):
        catalog.add_unit(unit_row(Unit(model, "train", 1, 0, 0), started=float(started)))
        finish(catalog, model, {"accuracy": started / 2})
    catalog.close()
    return tmp_path


def test_bill_says_what_the_winner_and_the_others_cost(store: Path):
    shown = invoke("bill", "posture", "--store", store)
    assert "winner" in shown.stdout
    assert "$2.00" in shown.stdout


def test_bill_gives_json(store: Path):
    found = json.loads(invoke("bill", "posture", "--store", store, "--json").stdout)
    assert [(group["name"], group["cost"]["dollars"]) for group in found["groups"]] == [
        ("winner", 1.0), ("other finished", 1.0), ("outside units", 0.0),
    ]  # fmt: skip
    assert found["total"]["cost"]["dollars"] == 2.0
