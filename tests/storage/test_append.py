"""Data that grow: what is there stays as it is, an append happens whole or not at all, and rows are not doubled."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import numpy as np
import pytest

import cerebro
from cerebro.errors import DataError
from cerebro.storage.append import _held, append
from cerebro.storage.crash_points import APPENDING, VARIABLE
from cerebro.storage.dataset import Dataset, open_dataset

SPLITS = ("train", "valid", "test")


def rows(count: int, first: int = 0, labels=("walk", "run")) -> dict[str, np.ndarray]:
    """Rows that can be told apart by `id`, in groups of ten."""
    number = np.arange(first, first + count)
    return {
        "id": number,
        "subject": number // 10,
        "signal": number[:, None].astype(np.float32) * np.ones((1, 3), np.float32),
        "label": np.array(labels)[number % len(labels)],
    }


@pytest.fixture
def path(tmp_path):
    destination = tmp_path / "grown.shards"
    cerebro.ingest(rows(200), destination, shards=4, label="label", group="subject")
    return destination


def content(dataset: Dataset, column: str = "id") -> dict[str, list]:
    found = {}
    for split in SPLITS:
        parts = [dataset.shard(split, index, verify=True) for index in range(len(dataset.splits[split]))]
        found[split] = [value for part in parts for value in part.columns[column].tolist()]
    return found


def ids_of(dataset: Dataset) -> list[int]:
    return sorted(number for numbers in content(dataset).values() for number in numbers)


def files(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_what_is_there_stays_as_it_is(path):
    before, shards = open_dataset(path), files(path)
    after = append(rows(60, 200), path)
    assert (after.cycle, after.earlier) == (1, (before.digest,))
    assert all(files(path)[name] == was for name, was in shards.items() if name != "manifest.json")
    assert all(after.splits[split][: len(before.splits[split])] == before.splits[split] for split in SPLITS)
    assert ids_of(after) == list(range(260))


def test_the_dataset_as_it_was_can_be_opened_by_its_digest(path):
    before = open_dataset(path)
    append(rows(60, 200), path)
    append(rows(60, 260), path)
    assert open_dataset(path).cycle == 2
    assert open_dataset(path, before.digest) == before


def test_a_group_stays_in_its_split(path):
    split_of = {
        subject: split for split, values in content(open_dataset(path), "subject").items() for subject in values
    }
    more = rows(100, 200)
    more["subject"] = more["id"] % 25  # 20 groups are there, 5 are new
    after = content(append(more, path), "subject")
    now = {subject: split for split, values in after.items() for subject in values}
    assert split_of.items() <= now.items()
    assert sum(map(len, (set(values) for values in after.values()))) == 25


def test_the_same_rows_give_the_same_files(tmp_path):
    found = []
    for name in ("one", "other"):
        cerebro.ingest(rows(200), tmp_path / name, shards=4, label="label", stratify=True)
        append(rows(50, 200), tmp_path / name)
        found.append(files(tmp_path / name))
    assert found[0] == found[1]


def test_new_shards_are_about_as_large_as_those_there_and_shuffled(path):
    before = open_dataset(path)
    after = append(rows(200, 200), path)
    full = max(shard.rows for shard in before.splits["train"])
    new = after.splits["train"][len(before.splits["train"]) :]
    assert len(new) >= 3
    assert all(full // 2 <= shard.rows <= full for shard in new)
    ids = content(after)["train"][before.rows("train") :]
    assert ids != sorted(ids)


def test_new_texts_get_new_codes_and_old_codes_stay(path):
    after = append(rows(40, 200, labels=("jump", "walk")), path)
    assert after.columns["label"].classes == ("run", "walk", "jump")
    ids, labels = content(after), content(after, "label")
    classes, pairs = after.columns["label"].classes, [zip(ids[split], labels[split], strict=True) for split in SPLITS]
    words = {number: classes[code] for pair in pairs for number, code in pair}
    assert all(words[i] == ("walk", "run")[i % 2] for i in range(200))
    assert all(words[i] == ("jump", "walk")[i % 2] for i in range(200, 240))


def test_a_few_rows_of_one_class_are_fine(path):
    assert sum(map(append(rows(1, 200), path).rows, SPLITS)) == 201


def without(name: str) -> dict[str, np.ndarray]:
    return {column: values for column, values in rows(10, 200).items() if column != name}


WRONG = {
    "a column that is missing": (without("signal"), "has no column 'signal'"),
    "another type": ({**rows(10, 200), "signal": np.ones((10, 3))}, r"'signal' is float64\[3\], and float32\[3\] in"),
    "another shape": (
        {**rows(10, 200), "signal": np.ones((10, 4), np.float32)},
        r"is float32\[4\], and float32\[3\] in",
    ),
    "numbers for texts": ({**rows(10, 200), "label": np.zeros(10, np.int64)}, "'label' is int64, and text in"),
    "no rows": (rows(0), "has no rows"),
    "the rows that are there": (rows(200), "are in .* already, since cycle 0: append only what is new"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_changes_nothing(path, what):
    source, message = WRONG[what]
    before = files(path)
    with pytest.raises(DataError, match=message):
        append(source, path)
    assert files(path) == before


def test_an_append_that_is_tried_again_does_not_double_its_rows(path):
    append(rows(60, 200), path)
    with pytest.raises(DataError, match="already, since cycle 1"):
        append(rows(60, 200), path)


def test_two_cannot_append_at_once(path):
    with ExitStack() as stack:
        stack.enter_context(_held(path))
        with pytest.raises(DataError, match="another process is appending"):
            append(rows(60, 200), path)
    assert append(rows(60, 200), path).cycle == 1


def test_threads_that_append_at_once_come_one_after_another_or_are_refused(path):
    refused = []

    def one(number: int) -> None:
        try:
            append(rows(20, 200 + 20 * number), path)
        except DataError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another process is appending" in text for text in refused)
    after = open_dataset(path)
    after.verify()
    assert after.cycle == 4 - len(refused) >= 1
    assert sum(map(after.rows, SPLITS)) == 200 + 20 * after.cycle


@pytest.mark.parametrize("point", APPENDING)
def test_a_death_at_any_point_leaves_the_dataset_before_or_after(path, point, tmp_path):
    before, more = open_dataset(path).digest, tmp_path / "more.npz"
    np.savez(more, **rows(60, 200))
    program = "import sys; from cerebro.storage.append import append; append(sys.argv[1], sys.argv[2])"
    environment = {**os.environ, VARIABLE: point}
    done = subprocess.run([sys.executable, "-c", program, more, path], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    found = open_dataset(path)
    found.verify()
    assert (found.digest == before) == (point != "append-ended")
    if found.cycle == 0:
        found = append(more, path)
    assert ids_of(found) == list(range(260))
    append(rows(10, 260), path)
    named = {shard.file for shards in open_dataset(path).splits.values() for shard in shards}
    assert set(files(path)) == named | {"manifest.json", "manifest-000.json", "manifest-001.json"}
    assert [folder.name for folder in path.iterdir() if folder.is_dir()] == []
