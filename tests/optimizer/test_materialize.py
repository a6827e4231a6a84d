"""Which derived columns are stored is a pure choice by cost."""

from dataclasses import replace

from cerebro.optimizer.materialize import Prefix, Room, choose, recomputed_seconds, shared_seconds, stored_seconds
from cerebro.storage.disk import DiskSpeed

ROWS = {("train", 0): 1000, ("train", 1): 1000, ("valid", 0): 500}
PREFIX = Prefix("k", "backbone", models=8, epochs=80, row_seconds=1e-3, row_bytes=512)
ROOM = Room(budget_bytes=1e9, memory_bytes=1e9, workers=2)


def places(chosen):
    return [choice.stored for choice in chosen.choices]


def test_a_dear_prefix_is_stored_for_all_shards():
    (choice,) = choose([PREFIX], ROWS, ROOM).choices
    assert choice.stored == tuple(ROWS)
    assert choice.stored_bytes == 2500 * 512
    assert choice.recompute_seconds == 80 * 2500 * 1e-3
    assert 2.5 < choice.seconds < 2.6


def test_a_prefix_that_is_cheaper_to_compute_than_to_read_is_not_stored():
    (choice,) = choose([replace(PREFIX, row_seconds=1e-9, row_bytes=1e5)], ROWS, ROOM).choices
    assert choice.stored == ()


def test_one_worker_with_memory_for_all_has_no_use_for_the_disk():
    assert places(choose([PREFIX], ROWS, replace(ROOM, workers=1))) == [()]
    assert places(choose([PREFIX], ROWS, replace(ROOM, workers=1, memory_bytes=1e5))) == [tuple(ROWS)]


def test_on_a_slow_disk_less_is_stored():
    slow = replace(ROOM, disk=DiskSpeed(1e5, 1e5))
    assert places(choose([PREFIX], ROWS, slow)) == [()]


def test_under_a_budget_what_saves_most_a_byte_goes_first():
    wide = replace(PREFIX, key="wide", row_bytes=16384)
    room = Room(budget_bytes=2500 * 512 + 1000 * 16384, memory_bytes=0, workers=2)
    assert places(choose([wide, PREFIX], ROWS, room)) == [(("train", 0),), tuple(ROWS)]


def test_what_does_not_fit_leaves_room_for_what_does():
    room = replace(ROOM, budget_bytes=600 * 512)
    assert places(choose([PREFIX], ROWS, room)) == [(("valid", 0),)]


def test_the_formulas_are_those_of_the_model():
    assert recomputed_seconds(PREFIX, 1000) == 80.0
    assert shared_seconds(PREFIX, 1000, workers=2, fits=True) == 2.0
    assert shared_seconds(PREFIX, 1000, workers=2, fits=False) == 20.0
    assert round(stored_seconds(PREFIX, 1000, DiskSpeed(4e8, 2e9)), 3) == 1 + round(512e3 / 4e8 + 80 * 512e3 / 2e9, 3)
