"""The commands, as a person at a terminal uses them."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import cerebro
from cerebro.cli import app
from cerebro.errors import StoreError
from cerebro.storage.catalog import Catalog
from tests.nets import build_any, signals

FILE = """
import cerebro
from tests.nets import build_any

print("the file was loaded")
experiment = cerebro.Experiment(
    "commands",
    data={data!r},
    build=build_any,
    search=cerebro.Grid({{"net": ["mlp", "cnn"], "lr": [0.01, 0.001]}}),
    epochs=2,
    metric="accuracy",
    mode="max",
)
"""


def invoke(*command: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)


@pytest.fixture(scope="module")
def place(shards: Path, tmp_path_factory: pytest.TempPathFactory):
    """A store in which one experiment was run from a file."""
    folder = tmp_path_factory.mktemp("commands")
    file = folder / "commands_experiment.py"
    file.write_text(FILE.format(data=str(shards)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CEREBRO_STORE", str(folder / "store"))
        ran = invoke("run", file, "--workers", 2, "--json")
        assert ran.exit_code == 0
        yield {"file": file, "folder": folder, "run": ran}


def test_run_answers_with_the_leaderboard_alone(place):
    rows = json.loads(place["run"].stdout)
    assert [set(row) for row in rows] == [
        {"model", "config", "status", "epochs", "metrics", "state_digest", "seconds", "badge"}
    ] * 4
    assert all(set(row["metrics"]) == {"train", "valid"} for row in rows)
    accuracy = [row["metrics"]["valid"]["accuracy"] for row in rows]
    assert accuracy == sorted(accuracy, reverse=True)


def test_importance_shares_one_out_among_the_dimensions(place):
    found = json.loads(invoke("importance", "commands", "--json").stdout)
    assert found.keys() == {"net", "lr"}
    assert sum(found.values()) == pytest.approx(1)
    assert [line.split()[0] for line in invoke("importance", "commands").stdout.splitlines()] == list(found)


def test_leaderboard_repeats_what_run_said(place):
    assert json.loads(invoke("leaderboard", "commands", "--json").stdout) == json.loads(place["run"].stdout)
    assert "accuracy" in invoke("leaderboard", "commands").stdout


def test_run_again_returns_at_once_with_the_same(place):
    assert invoke("run", place["file"], "--json").stdout == place["run"].stdout


def test_explain_shows_each_stage(place):
    for stage, word in (("logical", "Scan"), ("physical", "est"), ("actual", "actual")):
        shown = invoke("explain", place["file"], "--stage", stage)
        assert shown.exit_code == 0
        assert shown.stdout.startswith("Select  best valid.accuracy (max)")
        assert word in shown.stdout


def test_explain_tells_the_whole_story_of_a_plan(place):
    for stage, word in (("physical", "est"), ("actual", "actual")):
        shown = invoke("explain", place["file"], "--stage", stage, "--why").stdout
        parts = [part.splitlines()[0] for part in shown.split("\n\n")]
        assert parts == ["logical", "physical", "weighed"]  # nothing was rewritten
        assert word in shown


def test_explain_of_a_name_shows_what_was_planned_and_what_it_has_cost(place):
    planned, weighed = invoke("explain", "commands", "--why").stdout.split("\n\n")
    assert planned.startswith("Select  best valid.accuracy (max)")
    assert planned.splitlines()[-1].startswith("actual ")
    assert weighed.split()[0] in ("fuse", "there")
    with pytest.raises(StoreError, match="no experiment 'nothing'"):
        invoke("explain", "nothing")


def test_a_simulated_run_trains_nothing(place):
    before = invoke("events", "commands", "--json").stdout
    shown = invoke("run", place["file"], "--engine", "simulated", "--workers", 8)
    assert "simulated:" in shown.stdout
    assert "40 units" in shown.stdout
    assert invoke("events", "commands", "--json").stdout == before


def test_replay_says_identical(place):
    shown = invoke("replay", "commands", "m001", "--json")
    assert json.loads(shown.stdout) == {"model": "m001", "identical": True, "units": 10, "difference": None}


def test_replay_shows_the_first_unit_that_differs(place, shards, tmp_path, monkeypatch):
    declared = cerebro.Experiment(
        "tampered", data=shards, build=build_any, search=cerebro.Grid({"net": ["mlp"], "lr": [0.01]}), epochs=2,
        metric="accuracy", mode="max",
    )  # fmt: skip
    result = declared.fit(engine="inline", store=tmp_path, progress=False)
    with closing(Catalog(tmp_path / "tampered")) as catalog:
        forged = "UPDATE units SET state_digest = 'forged' WHERE epoch = 2 AND kind = 'train' AND position = 1"
        catalog._db.execute(forged)
    found = result.replay("m001")
    assert not found.identical
    assert found.units == 7
    assert str(found).startswith("m001: differs first in epoch 2, train visit 1 (shard ")
    assert "the state was forged, now " in str(found)


def test_export_writes_what_load_reads(place):
    target = place["folder"] / "exported"
    assert invoke("export", "commands", "m002", target).exit_code == 0
    assert cerebro.load(target).config == {"net": "mlp", "lr": 0.001}


def test_events_tell_what_happened(place):
    kinds = [event["kind"] for event in json.loads(invoke("events", "commands", "--json").stdout)]
    assert "run started" in kinds
    assert kinds.count("model finished") == 4
    assert kinds[-1] == "run finished"
    assert "model finished" in invoke("events", "commands").stdout


def test_top_and_report_show_the_experiment(place):
    assert "m001" in invoke("top", "commands", "--once").stdout
    page = Path(invoke("report", "commands").stdout.strip())
    assert page.read_text().startswith("<!doctype html>")


def test_ingest_makes_a_dataset(tmp_path):
    import numpy as np

    np.savez(tmp_path / "signals.npz", **signals())
    shown = invoke(
        "ingest", tmp_path / "signals.npz", tmp_path / "signals.shards", "--shards", 4, "--label", "label",
        "--group", "subject", "--split", "0.6,0.2,0.2",
    )  # fmt: skip
    assert "train  4" in shown.stdout
    subjects = [
        {int(s) for index in range(len(shards)) for s in dataset.shard(split, index).columns["subject"]}
        for dataset in [cerebro.open(tmp_path / "signals.shards")]
        for split, shards in dataset.splits.items()
    ]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == 12


def test_doctor_finds_this_machine_fit():
    found = json.loads(invoke("doctor", "--json").stdout)
    assert [check["check"] for check in found if not check["ok"]] == []
