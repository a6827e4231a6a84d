"""What the catalog keeps: rows that their seals vouch for, however they were written."""

import shutil
import sqlite3
import threading
from contextlib import closing
from random import Random

import pytest

import cerebro
from cerebro.messages import Unit
from cerebro.storage.catalog import FILE, Catalog, UnitRow, unreadable

EXPERIMENT = {
    "name": "kept", "spec": {}, "plan_id": "p" * 64, "metric": "accuracy", "mode": "max", "epochs": 2,
    "fingerprint": {}, "data": "kept.shards", "source": None,
}  # fmt: skip


MEMBERS = {model: {"config": {}, "repeat": 0, "ancestor": None} for model in ("m001", "m002")}


@pytest.fixture
def catalog(tmp_path):
    Catalog.create(tmp_path, EXPERIMENT, MEMBERS)
    with closing(Catalog(tmp_path)) as catalog:
        yield catalog


UNIT = Unit("m001", "train", 1, 0, 0)


def row(unit_id="u" * 64, state_digest="s" * 64):
    return UnitRow(
        unit_id=unit_id, unit=UNIT, parent_digest=None, state_digest=state_digest, run=1, worker=0, started=0.0,
        seconds=0.5, rows=32, partials={"loss": [1.5, 32]}, moved_bytes=0, peak_bytes=0, read_bytes=0,
    )  # fmt: skip


STATEMENTS = (
    "INSERT OR IGNORE INTO metrics VALUES (:model, :epoch, 'valid', 'loss', :value)",
    "INSERT OR REPLACE INTO metrics VALUES (:model, :epoch, 'valid', 'loss', :value)",
    "INSERT INTO metrics VALUES (:model, :epoch, 'valid', 'loss', :value) "
    "ON CONFLICT (model, epoch, split, name) DO UPDATE SET value = excluded.value",
    "UPDATE metrics SET value = :value WHERE model = :model",
    "UPDATE OR REPLACE metrics SET epoch = :epoch WHERE model = :model AND epoch <= :epoch",
    "UPDATE OR REPLACE metrics SET model = :model WHERE epoch = :epoch",
    "UPDATE OR IGNORE metrics SET model = :model WHERE epoch <= :epoch",
    "DELETE FROM metrics WHERE model = :model AND epoch = :epoch",
    "DELETE FROM metrics WHERE epoch = :epoch",
)


@pytest.mark.parametrize("seed", range(5))
def test_a_seal_is_kept_whatever_statement_writes_the_rows(catalog, seed):
    random = Random(seed)
    for _ in range(200):
        values = {"model": random.choice(("m001", "m002", "m003")), "epoch": random.randint(1, 6)}
        statement = random.choice(STATEMENTS[:3] * 3 + STATEMENTS)
        catalog._db.execute(statement, values | {"value": random.choice((None, 0.0, random.random()))})
        assert catalog.broken() == []
    assert catalog.metrics() != []


def test_a_row_that_is_written_past_its_seal_is_found(catalog):
    catalog.add_metrics("m001", 1, "valid", {"loss": 0.5})
    with closing(sqlite3.connect(catalog.file)) as db, db:
        db.execute("UPDATE metrics SET value = 0.25")
    assert [(broken.part, broken.model) for broken in catalog.broken()] == [("metrics", "m001")]


def test_a_unit_counts_once_and_never_with_another_result(catalog):
    catalog.add_unit(row())
    catalog.add_unit(row())
    with pytest.raises(cerebro.StoreError, match=r"differs from ssss.* recorded before"):
        catalog.add_unit(row(state_digest="t" * 64))
    assert catalog.units() == [row()]


def test_another_unit_in_the_place_of_one_is_refused(catalog):
    catalog.add_unit(row())
    with pytest.raises(sqlite3.IntegrityError):
        catalog.add_unit(row(unit_id="v" * 64))
    assert catalog.units() == [row()]


def test_seconds_add_up_and_other_columns_change_with_them(catalog):
    catalog.add_seconds("m001", 0.5)
    catalog.add_seconds("m001", 0.25, status="training", epochs=1)
    first, second = catalog.models()
    assert (first["seconds"], first["status"], first["epochs"]) == (0.75, "training", 1)
    assert (second["seconds"], second["status"], second["epochs"]) == (0.0, "waiting", 0)


def test_a_state_is_unneeded_only_when_no_model_has_it(catalog):
    for model, epoch, digest in (("m001", 1, "a"), ("m002", 1, "a"), ("m001", 2, "b")):
        catalog.add_checkpoint(model, epoch, 0, digest, 10)
    assert catalog.drop_older_checkpoints("m001", 2, 0) == []  # m002 is in the state a
    catalog.add_checkpoint("m002", 2, 0, "b", 10)
    assert catalog.drop_older_checkpoints("m002", 2, 0) == ["a"]
    assert catalog.drop_older_checkpoints("m002", 2, 0) == []
    assert {model: last["state_digest"] for model, last in catalog.last_checkpoints().items()} == {
        "m001": "b",
        "m002": "b",
    }


def test_what_a_dead_writer_left_in_the_log_goes_home_when_the_catalog_is_opened(catalog, tmp_path):
    catalog.add_unit(row())
    left = tmp_path / "left"
    left.mkdir()
    for file in (FILE, f"{FILE}-wal"):
        shutil.copy(tmp_path / file, left)
    assert (left / f"{FILE}-wal").stat().st_size > 0
    with closing(Catalog(left)) as opened:
        assert (left / f"{FILE}-wal").stat().st_size == 0
        assert opened.units() == [row()]


def test_a_disk_that_fails_is_not_called_damage(tmp_path):
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert str(unreadable(tmp_path / FILE, refused)).startswith("cannot write ")
    refused.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert "is damaged" in str(unreadable(tmp_path / FILE, refused))


def test_transactions_of_two_threads_do_not_mix(catalog):
    """An interrupted run notes its end while its last rows are being written."""
    other = threading.Thread(target=add_event_in_a_transaction, args=(catalog, "second"))
    with catalog.transaction():
        catalog.add_event("engine", "first", {})
        other.start()
        other.join(0.05)  # in vain: it waits for this one
        catalog.add_event("engine", "first", {})
    other.join()
    assert [event["kind"] for event in catalog.events()] == ["first", "first", "second"]


def add_event_in_a_transaction(catalog, kind):
    with catalog.transaction():
        catalog.add_event("engine", kind, {})
