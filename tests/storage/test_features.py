"""The feature store keeps what it can, never gives what was not written, and stays within its budget."""

import os
from pathlib import Path

import pytest

from cerebro.storage.features import FeatureStore, Stored

COLUMNS = [Stored("x", "float32", (2, 3), memoryview(bytes(range(24)))), Stored("y", "uint8", (2,), memoryview(b"ab"))]


def store(folder: Path, budget_bytes: int = 1 << 20, since: float = 0.0) -> FeatureStore:
    return FeatureStore(folder, budget_bytes, since)


def contents(columns):
    return None if columns is None else [(c.name, c.dtype, c.shape, bytes(c.content)) for c in columns]


def test_what_was_written_is_read_by_another(tmp_path):
    assert store(tmp_path).write("k", COLUMNS)
    assert contents(store(tmp_path).read("k")) == contents(COLUMNS)
    assert store(tmp_path).read("other") is None


def test_a_file_under_another_name_is_not_taken_for_it(tmp_path):
    store(tmp_path).write("k", COLUMNS)
    (tmp_path / "k.features").rename(tmp_path / "other.features")
    assert store(tmp_path).read("other") is None


@pytest.mark.parametrize("place", [0, 9, 45, 60, 200, -1])
def test_a_damaged_file_is_removed(tmp_path, place):
    store(tmp_path).write("k", COLUMNS)
    content = bytearray((tmp_path / "k.features").read_bytes())
    content[place] ^= 1
    (tmp_path / "k.features").write_bytes(content)
    assert store(tmp_path).read("k") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 10, 100])
def test_a_file_that_was_cut_is_removed(tmp_path, length):
    store(tmp_path).write("k", COLUMNS)
    os.truncate(tmp_path / "k.features", length)
    assert store(tmp_path).read("k") is None


def test_the_least_recently_used_of_earlier_runs_makes_room(tmp_path):
    for number, key in enumerate("abc"):
        store(tmp_path).write(key, COLUMNS)
        os.utime(tmp_path / f"{key}.features", (number, number))
    size = (tmp_path / "a.features").stat().st_size
    now = store(tmp_path, 3 * size, since=100.0)
    now.read("a")  # is used by this run
    assert now.write("d", COLUMNS)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_what_this_run_uses_is_not_dropped_for_more(tmp_path):
    now = store(tmp_path, since=100.0)
    now.write("a", COLUMNS)
    size = (tmp_path / "a.features").stat().st_size
    assert not store(tmp_path, 2 * size - 1, since=100.0).write("b", COLUMNS)
    assert [path.stem for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert not store(tmp_path / "file").write("k", COLUMNS)
    assert store(tmp_path / "file").read("k") is None
