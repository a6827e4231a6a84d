"""`doctor NAME`, `lineage`, `diff` and `retry`, as a person at a terminal uses them."""

import json
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import cerebro
from cerebro.cli import app
from cerebro.ids import digest
from cerebro.storage.store import Store

FILE = """
import cerebro
from tests.nets import build_any

def build(config):
    if config["net"] == "cnn":
        {fault}
    return build_any(config)

experiment = cerebro.Experiment(
    {name!r}, data={data!r}, build=build, epochs={epochs}, metric={metric!r}, mode="max", seed={seed},
    search=cerebro.Grid({{"net": ["mlp", "cnn"], "lr": [0.01, 0.001]}}),
)
"""


def invoke(*command: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)


def declare(folder: Path, file: str, **said: object) -> Path:
    """Write the file of an experiment; it is loaded afresh, as by another process."""
    sys.modules.pop(Path(file).stem, None)
    facts = {"fault": "raise ValueError('no such layer')", "epochs": 1, "metric": "accuracy", "seed": 0, **said}
    (folder / file).write_text(FILE.format(**facts))
    return folder / file


@pytest.fixture
def place(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `audited` was run: two models finished, two failed."""
    monkeypatch.setenv("CEREBRO_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = declare(tmp_path, "audited_file.py", name="audited", data=str(shards))
    assert invoke("run", file, "--engine", "inline", "--json").exit_code == 0
    return tmp_path


def board(name: str = "audited") -> dict[str, dict]:
    return {row["model"]: row for row in json.loads(invoke("leaderboard", name, "--json").stdout)}


def test_lineage_is_a_chain_from_the_initial_state_to_the_last(place):
    found = json.loads(invoke("lineage", "audited", "m001", "--json").stdout)
    train = [unit for unit in found["units"] if unit["kind"] == "train"]
    assert [unit["parent_digest"] for unit in train] == [None, *(unit["state_digest"] for unit in train[:-1])]
    assert found["state_digest"] == train[-1]["state_digest"] == board()["m001"]["state_digest"]
    assert found["plan_id"] == digest(found["declaration"])
    assert found["code_digest"] == digest(found["declaration"]["code"])
    assert all(re.fullmatch("[0-9a-f]{64}", unit["shard_digest"]) for unit in found["units"])


def test_lineage_prints_facts_and_units(place):
    shown = invoke("lineage", "audited", "m001").stdout.splitlines()
    assert shown[0] == "m001 of audited: finished, exact"
    assert [line.split()[0] for line in shown[1:9]] == [
        "config", "plan", "data", "code", "seed", "numerics", "state", "event"
    ]  # fmt: skip
    assert shown[10].split() == ["unit", "kind", "epoch", "visit", "shard", "run", "worker", "parent", "state"]
    assert len(shown[11:]) == 5
    assert shown[11].split()[1:4] == ["train", "1", "0"]


def test_diff_of_one_experiment_is_comparable(place):
    shown = invoke("diff", "audited", "m001", "m002")
    assert shown.exit_code == 0
    first, same, lr, state, *metrics = shown.stdout.splitlines()
    assert first == "audited/m001 and audited/m002: comparable"
    assert " ".join(same.split()[1:]) == (
        "data, metric, mode, epochs, code, seed, order, independent, device, streams, environment, epochs completed"
    )
    assert lr.split() == ["config.lr", "0.01", "0.001"]
    assert state.split()[0] == "state"
    assert [line.split()[0] for line in metrics] == ["valid.accuracy", "valid.loss", "train.accuracy", "train.loss"]


def test_diff_refuses_to_compare_other_data_or_metrics(place, shards):
    file = declare(place, "other_file.py", name="other", data=str(shards), metric="loss", seed=1, fault="pass")
    assert invoke("run", file, "--engine", "inline", "--json").exit_code == 0
    shown = invoke("diff", "audited", "m001", "other/m001")
    assert shown.exit_code == 3
    assert shown.stdout.splitlines()[0] == "audited/m001 and other/m001: NOT comparable: metric: accuracy is not loss"
    found = json.loads(invoke("diff", "audited", "m001", "other/m001", "--json").stdout)
    assert found["metrics"] == []
    assert {each["what"] for each in found["different"]} >= {"metric", "seed", "state"}
    with pytest.raises(cerebro.StoreError, match="no model 'm999'"):
        invoke("diff", "audited", "m001", "m999")


def test_retry_trains_a_mended_model_and_leaves_the_others_alone(place, shards):
    before = board()
    file = declare(place, "audited_file.py", name="audited", data=str(shards), fault="pass")
    with pytest.raises(cerebro.StoreError, match="after mending a failed model see `cerebro retry audited MODEL`"):
        invoke("run", file, "--engine", "inline")
    shown = invoke("retry", "audited", "m003").stdout
    assert shown == (
        "m003 of audited was failed and will be trained anew by the next run; "
        "code that changed: audited_file.build (changed)\n"
    )
    assert invoke("run", file, "--engine", "inline", "--json").exit_code == 0
    after = board()
    assert after["m003"]["status"] == "finished"
    assert {model: after[model] for model in ("m001", "m002", "m004")} == {
        model: before[model] for model in ("m001", "m002", "m004")
    }
    old, new = (json.loads(invoke("lineage", "audited", model, "--json").stdout) for model in ("m001", "m003"))
    assert old["code_digest"] != new["code_digest"]
    retried = next(event["body"] for event in new["history"] if event["kind"] == "retried")
    assert retried["code"] == {"audited_file.build": "changed"}
    assert (retried["plan_before"], retried["plan"]) == (old["plan_id"], new["plan_id"])
    assert json.loads(invoke("replay", "audited", "m003", "--json").stdout)["identical"]
    with pytest.raises(cerebro.StoreError, match="was trained with the code as it was before a retry"):
        invoke("replay", "audited", "m001")
    fresh = declare(place, "fresh_file.py", name="fresh", data=str(shards), fault="pass")
    invoke("run", fresh, "--engine", "inline", "--json")
    assert board("fresh")["m003"]["state_digest"] == after["m003"]["state_digest"]


def test_retry_is_for_models_that_failed_and_for_code_alone(place, shards):
    with pytest.raises(cerebro.StoreError, match="'m001' of 'audited' is finished: only a failed or diverged one"):
        invoke("retry", "audited", "m001")
    declare(place, "audited_file.py", name="audited", data=str(shards), fault="pass", epochs=2)
    with pytest.raises(cerebro.StoreError, match="another declaration: epochs was 1, now it is 2"):
        invoke("retry", "audited", "m003")


def test_retry_from_python(place):
    from cerebro.session.source import load_experiment

    found = load_experiment(place / "audited_file.py").result().retry("m003")
    assert (found.model, found.was, found.error, found.code) == ("m003", "failed", "ValueError: no such layer", {})


def test_doctor_finds_a_healthy_experiment_well(place):
    shown = invoke("doctor", "audited")
    assert shown.exit_code == 0
    assert re.fullmatch(r"audited: \d+ rows, 2 states, 6 shards verified, 0 findings, 0 left\n", shown.stdout)


def test_doctor_says_what_it_would_do_and_does_it(place):
    folder = Store().experiment("audited")
    winner = board()["m001"]["state_digest"]
    state = folder.checkpoints.path(winner)
    state.write_bytes(state.read_bytes()[:-1])
    (folder.path / "states" / f"{'0' * 64}.state").write_bytes(b"?")
    (folder.path / "states" / ".tmp-1-x").write_bytes(b"?")
    _set_status(folder, "running")
    shown = invoke("doctor", "audited")
    assert shown.exit_code == 1
    lines = shown.stdout.splitlines()
    assert lines[0] == (
        "BAD  status     the experiment is `running` and no driver is alive: it was killed; "
        "set it to `interrupted`; `cerebro run` goes on where it was"
    )
    assert re.fullmatch(
        rf"BAD  checkpoint \S*{winner}.state is damaged: expected sha256 {winner}, found [0-9a-f]{{64}}; "
        "forget it, and let the next run compute m001 again from its last good state",
        lines[1],
    )
    assert [line.split()[1] for line in lines[2:4]] == ["leftover", "leftover"]
    assert lines[-1].endswith("4 findings, 4 left")
    found = json.loads(invoke("doctor", "audited", "--repair", "--json").stdout)
    assert [(each["about"], each["repaired"]) for each in found["findings"]] == [
        ("status", True), ("checkpoint", True), ("leftover", True), ("leftover", True)
    ]  # fmt: skip
    assert invoke("doctor", "audited").exit_code == 0
    invoke("run", place / "audited_file.py", "--engine", "inline", "--json")
    assert board()["m001"]["state_digest"] == winner


def test_doctor_never_touches_the_dataset(place, shards):
    shard = next(shards.glob("train-*.arrow"))
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:-9] + b"?" + content[-8:])
        damaged = shard.read_bytes()
        shown = invoke("doctor", "audited", "--repair")
        assert shown.exit_code == 1
        assert re.match(
            rf"BAD  dataset    {shard} has changed since it was written: sha256 \w+ expected, \w+ found; "
            "restore it, or ingest the source again: nothing here is repaired",
            shown.stdout,
        )
        assert shard.read_bytes() == damaged
    finally:
        shard.write_bytes(content)


def test_doctor_says_who_runs_the_experiment(place):
    with Store().experiment("audited").held():
        assert "runs audited: its states are not looked at" in invoke("doctor", "audited").stdout


def test_doctor_of_nothing_names_what_there_is(place):
    for more in ([], ["--repair"]):
        with pytest.raises(cerebro.StoreError, match=r"no experiment 'nothing' in the store .*; there are: audited"):
            invoke("doctor", "nothing", *more)


def _set_status(folder, status: str) -> None:
    from cerebro.storage.catalog import Catalog

    with closing(Catalog(folder.path)) as catalog, catalog.transaction():
        catalog.set_experiment(status=status)
