"""The speed of a disk is measured once, and what cannot be trusted is measured again."""

import json

import pytest

from cerebro.storage import disk
from cerebro.storage.disk import DiskSpeed, disk_speed


@pytest.fixture
def measured(monkeypatch):
    """How often it was measured; 16 MiB are not needed to see that."""
    calls, measure = [], disk.measured

    def counted(folder):
        calls.append(folder)
        return measure(folder)

    monkeypatch.setattr(disk, "_BYTES", 1 << 20)
    monkeypatch.setattr(disk, "measured", counted)
    return calls


def test_a_disk_is_measured_once_and_leaves_nothing_but_a_note(tmp_path, measured):
    folder = tmp_path / "features"
    first = disk_speed(folder)
    assert min(first.write_bytes_per_second, first.read_bytes_per_second) > 0
    assert disk_speed(folder) == first
    assert len(measured) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"features", "features.speed.json"}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("change", [{"device": -1}, {"machine": "other"}, {"read_bytes_per_second": -1}, {"x": None}])
def test_a_note_of_another_disk_or_a_damaged_one_is_not_believed(tmp_path, measured, change):
    notes = tmp_path / "features.speed.json"
    disk_speed(tmp_path / "features")
    values = {**json.loads(notes.read_text()), **change}
    notes.write_text("[]" if "x" in change else json.dumps(values))
    disk_speed(tmp_path / "features")
    assert len(measured) == 2


def test_where_nothing_can_be_written_the_defaults_hold(tmp_path, measured):
    (tmp_path / "file").write_text("")
    assert disk_speed(tmp_path / "file" / "features") == DiskSpeed()
