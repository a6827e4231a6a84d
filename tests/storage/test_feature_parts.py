"""What several workers compute together, each part is computed by one of them."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from cerebro.storage.feature_parts import Parts
from cerebro.storage.features import Stored

COUNT = 4


def column(part: int) -> list[Stored]:
    return [Stored("x", "uint8", (3,), memoryview(bytes([part] * 3)))]


def contents(gathered) -> list[bytes]:
    return [bytes(part[0].content) for part in gathered]


EXPECTED = [bytes([part] * 3) for part in range(COUNT)]


def test_each_part_is_made_once_by_workers_that_begin_together(tmp_path):
    made, begun = Counter(), threading.Barrier(2)

    def work(_):
        first = []

        def make(part):
            if not first:
                first.append(part)
                begun.wait(30)  # both are within a part of their own
            made[part] += 1
            return column(part)

        return contents(Parts(tmp_path, "k", COUNT).gathered(make, lambda: False))

    with ThreadPoolExecutor(2) as workers:
        assert list(workers.map(work, range(2))) == [EXPECTED, EXPECTED]
    assert made == dict.fromkeys(range(COUNT), 1)


def test_what_a_maker_that_died_has_left_is_made_again(tmp_path):
    parts = Parts(tmp_path, "k", COUNT)
    parts.gathered(column, lambda: False)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        path.write_bytes(path.read_bytes()[: 100 * number])
    assert contents(parts.gathered(column, lambda: False)) == EXPECTED


def test_nothing_is_made_once_the_whole_is_stored(tmp_path):
    made = []
    assert Parts(tmp_path, "k", COUNT).gathered(lambda part: made.append(part) or column(part), lambda: True) is None
    assert made == []


def test_removed_parts_are_gone(tmp_path):
    parts = Parts(tmp_path, "k", COUNT)
    parts.gathered(column, lambda: False)
    parts.remove()
    assert list(tmp_path.iterdir()) == []
