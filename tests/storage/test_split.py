"""Every row goes to one place, and the places keep what was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.errors import DataError
from cerebro.storage.split import arrange, shard_sizes, split_by_class, split_by_group, split_rows

FRACTIONS = st.sampled_from([(0.7, 0.15, 0.15), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33), (0.5, 0.0, 0.5)])
SEEDS = st.integers(0, 2**63)
QUICK = settings(max_examples=60, deadline=None)


def counts(splits: np.ndarray) -> list[int]:
    return np.bincount(splits, minlength=3).tolist()


@QUICK
@given(st.integers(1, 3000), st.integers(1, 20), FRACTIONS, SEEDS)
def test_every_row_has_one_place_in_a_shard_of_its_split(rows: int, shards: int, fractions: tuple, seed: int):
    rows += 20 + shards
    splits = split_rows(rows, fractions, seed)
    try:
        arrangement = arrange(splits, shards, seed)
    except DataError:
        assert counts(splits)[0] < shards
        return
    assert sorted(arrangement.slots.tolist()) == list(range(rows))
    places = [split for split, name in enumerate(arrangement.sizes) for _ in range(sum(arrangement.sizes[name]))]
    assert np.array(places)[arrangement.slots].tolist() == splits.tolist()


@QUICK
@given(st.lists(st.integers(0, 5000), min_size=3, max_size=3), st.integers(1, 40))
def test_shards_of_a_split_differ_by_at_most_one_row(rows: list[int], shards: int):
    rows[0] += shards
    sizes = shard_sizes(rows, shards)
    assert [sum(sizes[split]) for split in ("train", "valid", "test")] == rows
    assert all(max(each) - min(each) <= 1 for each in sizes.values() if each)
    assert len(sizes["train"]) == shards
    full = max(sizes["train"])
    assert [len(sizes["valid"]), len(sizes["test"])] == [-(-rows[1] // full), -(-rows[2] // full)]
    assert min(min(each) for each in sizes.values() if each) > 0


@QUICK
@given(st.integers(20, 3000), FRACTIONS, SEEDS)
def test_a_split_by_rows_is_the_fractions_to_the_row(rows: int, fractions: tuple, seed: int):
    found = counts(split_rows(rows, fractions, seed))
    assert sum(found) == rows
    assert all(abs(count - fraction * rows) < 1 for count, fraction in zip(found, fractions, strict=True))


@QUICK
@given(st.lists(st.integers(0, 5), min_size=60, max_size=500), FRACTIONS, SEEDS)
def test_a_stratified_split_is_the_fractions_of_every_class_to_the_row(labels: list, fractions: tuple, seed: int):
    classes = np.unique(np.array(labels), return_inverse=True)[1]
    splits = split_by_class(classes, fractions, seed)
    for each in range(classes.max() + 1):
        found, size = counts(splits[classes == each]), int((classes == each).sum())
        assert all(abs(count - fraction * size) < 1 for count, fraction in zip(found, fractions, strict=True))
    assert all(abs(c - f * len(labels)) < 3 for c, f in zip(counts(splits), fractions, strict=True))


@QUICK
@given(st.lists(st.integers(1, 30), min_size=3, max_size=60), FRACTIONS, SEEDS)
def test_no_group_is_in_two_splits_and_no_split_is_empty(sizes: list[int], fractions: tuple, seed: int):
    groups = np.random.RandomState(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    splits = split_by_group(groups, fractions, seed)
    assert all(len(set(splits[groups == group])) == 1 for group in range(len(sizes)))
    assert [count > 0 for count in counts(splits)] == [fraction > 0 for fraction in fractions]


def test_many_groups_come_close_to_the_fractions():
    groups = np.repeat(np.arange(200), np.random.RandomState(1).randint(1, 20, 200))
    splits = split_by_group(groups, (0.7, 0.15, 0.15), 0)
    assert np.abs(np.array(counts(splits)) / len(groups) - (0.7, 0.15, 0.15)).max() < 0.02


def test_another_seed_gives_another_split_and_another_order():
    one, other = (split_rows(500, (0.7, 0.15, 0.15), seed) for seed in (0, 1))
    assert (one != other).any()
    assert (arrange(one, 4, 0).slots != arrange(one, 4, 1).slots).any()


def test_the_split_and_the_order_of_a_seed_never_change():
    """Datasets that people have ingested must come out the same from later versions."""
    splits = split_rows(12, (0.5, 0.25, 0.25), 0)
    assert (splits.tolist(), arrange(splits, 2, 0).slots.tolist()) == (
        [2, 1, 0, 1, 0, 0, 1, 2, 2, 0, 0, 0],
        [9, 8, 5, 7, 1, 0, 6, 10, 11, 2, 4, 3],
    )


def test_too_few_rows_for_a_split_are_refused():
    with pytest.raises(DataError, match=r"^split=\(0.7, 0.15, 0.15\): 3 rows are too few to give test any; give more"):
        split_rows(3, (0.7, 0.15, 0.15), 0)
