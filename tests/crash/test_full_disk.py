"""A disk that is full, read-only or broken: one clear error, nothing lost, and the same bits once it is well again."""

import errno
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

import cerebro
from cerebro.session.source import load_experiment
from cerebro.storage import checkpoints
from cerebro.storage.catalog import Catalog
from cerebro.testing.faults import digests, leftovers


@pytest.fixture
def experiment(declared):
    return load_experiment(declared)


def fit(experiment, store):
    return experiment.fit(engine="inline", workers=2, store=store, progress=False)


def failure_of(experiment, store) -> str | None:
    try:
        fit(experiment, store)
    except cerebro.StoreError as error:
        return str(error)
    return None


def failing_writes(monkeypatch, error, number):
    """From the write of a state with this number on, every one fails after half of its bytes."""
    write, calls = checkpoints._write_synced, list[int]()

    def failing(path, content):
        calls.append(1)
        if len(calls) >= number:
            Path(path).write_bytes(bytes(content)[: len(content) // 2])
            raise OSError(error, os.strerror(error))
        write(path, content)

    monkeypatch.setattr(checkpoints, "_write_synced", failing)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_writes_of_states_may_fail_in_every_run_and_the_next_one_goes_on(
    experiment, undisturbed, tmp_path, monkeypatch, error
):
    failures = list[str]()
    for _ in range(40):
        failing_writes(monkeypatch, error, number=4)  # so that at least one commit of two workers' states is whole
        failure = failure_of(experiment, tmp_path)
        monkeypatch.undo()
        if failure is None:
            break
        failures.append(failure)
    # Of a model that came through two units before a write, the newer state alone is written.
    assert 3 <= len(failures) < 40
    told = re.compile(rf"cannot write .*\.state: {os.strerror(error)}.*run again: it goes on")
    assert [failure for failure in failures if not told.search(failure)] == []
    assert digests(tmp_path, "signals") == undisturbed
    assert leftovers(tmp_path, "signals") == []


def test_a_run_that_cannot_write_a_single_state_loses_nothing(experiment, undisturbed, tmp_path, monkeypatch):
    failing_writes(monkeypatch, errno.ENOSPC, number=1)
    assert "run again: it goes on" in (failure_of(experiment, tmp_path) or "")
    monkeypatch.undo()
    assert failure_of(experiment, tmp_path) is None
    assert digests(tmp_path, "signals") == undisturbed


def test_a_catalog_that_cannot_grow_ends_the_run_and_the_next_one_goes_on(
    experiment, undisturbed, tmp_path, monkeypatch
):
    connect = Catalog._connect

    def small(catalog: Catalog) -> sqlite3.Connection:
        db = connect(catalog)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 3}")
        return db

    monkeypatch.setattr(Catalog, "_connect", small)
    with pytest.raises(cerebro.StoreError, match=r"cannot write .*catalog\.sqlite: database or disk is full"):
        fit(experiment, tmp_path)
    monkeypatch.undo()
    fit(experiment, tmp_path)
    assert digests(tmp_path, "signals") == undisturbed
    assert leftovers(tmp_path, "signals") == []


def test_a_catalog_that_is_full_at_the_very_end_is_not_taken_for_a_finished_run(
    experiment, undisturbed, tmp_path, monkeypatch
):
    add_event, finished = Catalog.add_event, list[str]()

    def last_fails(catalog, actor, kind, body):
        if kind == "model finished":
            finished.append(body["model"])
        if len(finished) == len(undisturbed) and kind == "model finished":
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise full
        add_event(catalog, actor, kind, body)

    monkeypatch.setattr(Catalog, "add_event", last_fails)
    assert "database or disk is full" in (failure_of(experiment, tmp_path) or "")
    monkeypatch.undo()
    assert failure_of(experiment, tmp_path) is None
    assert digests(tmp_path, "signals") == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A file system whose size can be changed, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True, capture_output=True)

    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this process may not mount a file system")
    yield folder, resize
    subprocess.run(["umount", folder], check=True)


def test_a_real_disk_that_is_full_again_and_again(experiment, undisturbed, small_disk):
    folder, resize = small_disk
    kilobytes, failures = 64, list[str]()
    while (failure := failure_of(experiment, folder)) is not None:
        failures.append(failure)
        kilobytes += 56
        resize(f"size={kilobytes}k")
    assert len(failures) > 3
    assert [failure for failure in failures if "free space and run again" not in failure] == []
    assert digests(folder, "signals") == undisturbed
    assert leftovers(folder, "signals") == []


def test_a_read_only_store_is_refused_at_once_and_can_be_read(experiment, small_disk):
    folder, resize = small_disk
    resize("size=8m")
    result = fit(experiment, folder)
    resize("ro")
    try:
        assert len(result.leaderboard()) == 4
        assert fit(experiment, folder).leaderboard() == result.leaderboard()
        with pytest.raises(cerebro.StoreError, match="cannot write the store"):
            fit(cerebro.Experiment(**{**vars(experiment), "name": "another"}), folder)
    finally:
        resize("rw")
    shutil.rmtree(folder / "signals")
