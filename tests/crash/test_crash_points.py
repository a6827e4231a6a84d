"""A process that dies at any point on the way to durability leaves a store that goes on to the same bits."""

import signal

import pytest

from cerebro.storage.crash_points import NAMES
from cerebro.storage.store import Store
from cerebro.testing.faults import digests, leftovers, run_inline

SEVENTH = [f"{name}:7" for name in NAMES if not name.startswith("create")]


@pytest.mark.parametrize("point", [*NAMES, *SEVENTH])
def test_a_death_at_any_point_changes_no_bit(subject, undisturbed, point):
    assert run_inline(subject, crash_at=point) == -signal.SIGKILL
    assert run_inline(subject) == 0
    assert digests(subject.store, "signals") == undisturbed
    assert leftovers(subject.store, "signals") == []


def test_one_death_after_another_changes_no_bit(subject, undisturbed):
    """Also the recovery from a death may die."""
    for point in [*NAMES, *SEVENTH]:
        assert run_inline(subject, crash_at=point) in (-signal.SIGKILL, 0)  # the catalog is created only once
    assert run_inline(subject) == 0
    assert digests(subject.store, "signals") == undisturbed
    assert leftovers(subject.store, "signals") == []


def test_every_committed_unit_has_its_state_or_a_later_one(subject):
    """Of what the catalog says nothing is run again."""
    assert run_inline(subject, crash_at="record-committed:9") == -signal.SIGKILL
    folder = Store(subject.store).experiment("signals")
    before = folder.reader().query("SELECT unit_id, run FROM units ORDER BY unit_id")
    assert run_inline(subject) == 0
    after = folder.reader().query("SELECT unit_id, run FROM units ORDER BY unit_id")
    assert len(before) > 5
    assert [row for row in after if row["run"] == 1] == before
