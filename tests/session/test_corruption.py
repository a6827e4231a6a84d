"""Damage at rest is noticed, named, and never becomes a wrong result."""

import random
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import cerebro
from cerebro.session import connect
from cerebro.session.examination import examine
from cerebro.session.repair import repair
from cerebro.storage.catalog import Catalog
from cerebro.storage.wal import torn_log
from cerebro.testing.corruption import DAMAGES, FILES, Specimen
from tests.nets import build_mlp, signals

ROUNDS = 3
MAY_BE_HARMLESS = {"catalog", "catalog after the end", "write-ahead log", "remembered pilot"}
"""Files with bytes that mean nothing: free pages, frames of an older log, and what is only remembered."""


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    folder = tmp_path_factory.mktemp("specimen")
    (folder / "live").mkdir()
    data = folder / "live" / "data"
    cerebro.ingest(signals(48), data, shards=2, label="label")
    grid = cerebro.Grid({"lr": [0.01, 0.001]})
    return Specimen(
        folder,
        cerebro.Experiment(
            "specimen", data=data, build=build_mlp, search=grid, epochs=2, metric="accuracy", mode="max"
        ),
    )


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_damage_to_any_file_is_detected_or_changes_no_result(specimen, kind, how):
    places = [random.Random(f"{kind} {how} {number}") for number in range(ROUNDS)]
    reports = [specimen.outcome(kind, DAMAGES[how], place) for place in places]
    assert [report.said for report in reports if report.outcome == "wrong"] == []
    if kind not in MAY_BE_HARMLESS:
        assert Counter(report.outcome for report in reports) == {"detected": ROUNDS}


def test_a_specimen_without_damage_says_nothing(specimen):
    assert specimen.outcome("catalog", lambda content, places: content, random.Random(0)).outcome == "harmless"
    assert specimen.outcome("checkpoint after the end", lambda content, places: content, random.Random(0)).said == ""


@pytest.fixture
def finished(shards, tmp_path):
    grid = cerebro.Grid({"lr": [0.01, 0.001]})
    declared = cerebro.Experiment(
        "kept", data=shards, build=build_mlp, search=grid, epochs=2, metric="accuracy", mode="max"
    )
    return declared, declared.fit(engine="inline", store=tmp_path / "store", progress=False)


def flip(file: Path, index: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[index] ^= 1
    file.write_bytes(content)


def test_a_damaged_state_is_named_and_computed_again(finished, tmp_path):
    declared, result = finished
    board = [dict(row, seconds=0) for row in result.leaderboard()]
    state = result.folder.checkpoints.path(board[0]["state_digest"])
    good = state.read_bytes()
    flip(state)
    with pytest.raises(cerebro.StoreError, match=rf"{state} is damaged: expected sha256 {state.stem}, found [0-9a-f]+"):
        result.load(board[0]["model"])
    with pytest.raises(cerebro.StoreError, match="is damaged"):
        result.export(board[0]["model"], tmp_path / "exported")
    before, after = repair(result.folder)
    assert [(finding.about, finding.model) for finding in before.findings] == [("checkpoint", board[0]["model"])]
    assert after.findings == ()
    assert [row["status"] for row in result.leaderboard()] == ["finished", "waiting"]
    again = declared.fit(engine="inline", store=tmp_path / "store", progress=False)
    assert [dict(row, seconds=0) for row in again.leaderboard()] == board
    assert state.read_bytes() == good


def test_a_damaged_shard_ends_the_run_and_no_model_is_to_blame(shards, tmp_path):
    data = Path(shutil.copytree(shards, tmp_path / "data"))
    declared = cerebro.Experiment(
        "shard", data=data, build=build_mlp, search=cerebro.Grid({"lr": [0.01]}), epochs=1, metric="accuracy",
        mode="max",
    )  # fmt: skip
    expected = declared.fit(engine="inline", store=tmp_path / "a", progress=False).leaderboard()[0]["state_digest"]
    (flipped,) = data.glob("train-003.arrow")
    for engine in ("inline", "local"):
        flip(flipped, 1000)
        with pytest.raises(
            cerebro.DataError, match=r"train-003.arrow has changed since it was written: sha256 .* found"
        ):
            declared.fit(engine=engine, workers=1, store=tmp_path / engine, progress=False)
        flip(flipped, 1000)
        result = declared.fit(engine=engine, workers=1, store=tmp_path / engine, progress=False)
        assert [(row["status"], row["state_digest"]) for row in result.leaderboard()] == [("finished", expected)]


def test_a_shard_that_is_written_to_during_the_run_is_noticed(shards, tmp_path):
    data, seen = Path(shutil.copytree(shards, tmp_path / "data")), list[int]()

    def loss(loss, module, batch):
        seen.append(1)
        if len(seen) == 30:
            flip(data / "train-000.arrow", 1000)
        return loss(module, batch)

    def build(config):
        learner = build_mlp(config)
        return replace(learner, loss=partial(loss, learner.loss))

    declared = cerebro.Experiment(
        "written", data=data, build=build, search=cerebro.Grid({"lr": [0.01]}), epochs=3, metric="loss", mode="min"
    )
    with pytest.raises(cerebro.DataError, match=r"train-000.arrow has changed since it was written"):
        declared.fit(engine="inline", store=tmp_path / "store", progress=False)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE metrics SET value = value + 1e-16 WHERE model = 'm001' AND epoch = 2", "metrics of m001"),
        ("DELETE FROM units WHERE model = 'm002' AND position = 1", "units of m002"),
        ("UPDATE models SET state_digest = 'forged' WHERE model = 'm001'", "models of m001"),
        ("UPDATE experiments SET mode = 'min'", "experiments"),
        ("DELETE FROM events WHERE seq = 2", "events"),
        ("DELETE FROM seals WHERE part = 'metrics'", "metrics of m001"),
    ],
)
def test_rows_that_were_not_written_by_the_driver_are_noticed(finished, tmp_path, sql, what):
    import sqlite3

    declared, result = finished
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute(sql)
    message = rf"catalog.sqlite is damaged: the {what} do not add up: \d+ rows with seal \w+ expected, \d+ .* found"
    with pytest.raises(cerebro.StoreError, match=message):
        declared.fit(engine="inline", store=tmp_path / "store", progress=False)
    found = examine(result.folder).findings
    assert f"the {what} do not add up" in found[0].found


def test_a_rebuilt_catalog_keeps_the_other_models(finished, tmp_path):
    import sqlite3

    declared, result = finished
    board = {row["model"]: dict(row, seconds=0) for row in result.leaderboard()}
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE units SET partials = '{}' WHERE model = 'm002' AND position = 1")
    repair(result.folder)
    with closing(result.folder.reader()) as reader:
        assert {row["model"]: row["status"] for row in reader.models()} == {"m001": "finished", "m002": "waiting"}
        assert [unit.unit.model for unit in reader.units()] == ["m001"] * 10
        assert reader.events()[-1]["kind"] == "repaired"
    again = declared.fit(engine="inline", store=tmp_path / "store", progress=False)
    assert {row["model"]: dict(row, seconds=0) for row in again.leaderboard()} == board


@pytest.fixture
def joined(finished, tmp_path):
    """The same with a model that was added (m003), a cold clone (m004) and a warm one (m005), all trained."""
    declared, _ = finished
    handle = connect("kept", tmp_path / "store")
    handle.add({"lr": 0.1})
    handle.clone("m001", warm=False, lr=0.2)
    handle.clone("m001", lr=0.3)
    return declared, declared.fit(engine="inline", store=tmp_path / "store", progress=False)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE units SET partials = '{}' WHERE model IN ('m003', 'm004') AND position = 1",
        "UPDATE models SET config = '{}' WHERE model IN ('m003', 'm004')",
        "DELETE FROM models WHERE model IN ('m003', 'm004')",
    ],
    ids=["units", "models", "lost"],
)
def test_a_rebuilt_catalog_keeps_models_that_joined_later(joined, tmp_path, sql):
    import sqlite3

    declared, result = joined
    board = {row["model"]: dict(row, seconds=0) for row in result.leaderboard()}
    assert len(board) == 5
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute(sql)
    _, after = repair(result.folder)
    assert after.findings == ()
    with closing(result.folder.reader()) as reader:
        statuses = {row["model"]: row["status"] for row in reader.models()}
    assert [model for model, status in statuses.items() if status == "waiting"] == ["m003", "m004"]
    again = declared.fit(engine="inline", store=tmp_path / "store", progress=False)
    assert {row["model"]: dict(row, seconds=0) for row in again.leaderboard()} == board


def test_a_warm_clone_starts_anew_only_while_there_is_what_it_starts_from(joined, tmp_path):
    import sqlite3

    declared, result = joined
    board = {row["model"]: dict(row, seconds=0) for row in result.leaderboard()}
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE units SET partials = '{}' WHERE model = 'm005' AND position = 1")
    repair(result.folder)
    again = declared.fit(engine="inline", store=tmp_path / "store", progress=False)  # m001 is as it was cloned
    assert {row["model"]: dict(row, seconds=0) for row in again.leaderboard()} == board
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute("DELETE FROM units WHERE model = 'm005'")
    result.folder.checkpoints.path(board["m001"]["state_digest"]).unlink()
    repair(result.folder)
    rows = {row["model"]: row for row in result.leaderboard()}
    assert (rows["m001"]["status"], rows["m005"]["status"]) == ("waiting", "failed")
    assert "the state of m001 that it starts from is not kept any more: clone it again" in rows["m005"]["error"]


def test_what_an_experiment_is_cannot_be_made_up(finished):
    import sqlite3

    _, result = finished
    with closing(sqlite3.connect(result.folder.path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE experiments SET metric = 'loss'")
    with pytest.raises(
        cerebro.StoreError, match=r"cannot be repaired: what the experiment is cannot be read\. Restore"
    ):
        repair(result.folder)


def test_a_repair_while_a_driver_is_alive_is_refused(finished):
    _, result = finished
    with result.folder.held():
        assert examine(result.folder).driver is not None
        with pytest.raises(cerebro.StoreError, match="is being run by process"):
            repair(result.folder)


def test_a_log_that_is_whole_is_not_torn(finished, tmp_path):
    _, result = finished
    log = result.folder.path / "catalog.sqlite-wal"
    with closing(Catalog(result.folder.path)) as catalog:
        for number in range(20):
            with catalog.transaction():
                catalog.add_event("user", "noted", {"number": number})
        copy = Path(shutil.copy(log, tmp_path / "log"))
    assert torn_log(copy) is None
    assert torn_log(tmp_path / "nothing") is None
    size = copy.stat().st_size
    for index in range(0, size, 997):
        flip(copy, index)
        assert torn_log(copy) is not None, index
        flip(copy, index)


def test_a_reader_neither_blocks_nor_sees_half_of_a_writer(finished):
    _, result = finished
    with closing(Catalog(result.folder.path)) as catalog, closing(result.folder.reader()) as reader:
        with catalog.transaction():
            catalog.set_model("m001", badge="recorded")
            assert reader.models()[0]["badge"] == "exact"
            reader.check()
        assert reader.models()[0]["badge"] == "recorded"
        reader.check()
