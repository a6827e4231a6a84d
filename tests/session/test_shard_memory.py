"""Data that do not fit: fewer reads, the same bits, and damage is seen whenever a shard is read."""

import os
from contextlib import closing
from dataclasses import replace

import pytest

import cerebro
from cerebro.errors import DataError, SpecError
from cerebro.messages import Reading
from cerebro.quantities import bytes_text
from cerebro.storage.dataset import open_dataset
from cerebro.training.open_shards import OpenShards, ShardError
from tests.nets import signals


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """16 train shards and 4 valid ones."""
    destination = tmp_path_factory.mktemp("data") / "many.shards"
    cerebro.ingest(signals(), destination, shards=16, label="label")
    return destination


def sizes(path) -> list[int]:
    dataset = open_dataset(path)
    return [shard.bytes for split in ("train", "valid") for shard in dataset.splits[split]]


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


def read_bytes(result) -> int:
    with closing(result.folder.reader()) as reader:
        return reader.query("SELECT SUM(read_bytes) AS read FROM units")[0]["read"]


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_shared_scan_reads_each_shard_about_once_an_epoch_and_changes_no_bit(
    experiment, many_shards, engine, tmp_path
):
    declared, total = replace(experiment, data=many_shards), sum(sizes(many_shards))
    options = {"engine": engine, "workers": 2, "fuse": False, "progress": False}
    whole = declared.fit(**options, store=tmp_path / "whole")
    short = declared.fit(**options, shard_memory=total // 4, store=tmp_path / "short")
    assert digests(short) == digests(whole)
    assert read_bytes(whole) == total
    assert 1.5 * total < read_bytes(short) <= 1.3 * declared.epochs * total


def test_passes_share_what_they_read(experiment, many_shards, tmp_path):
    declared, total = replace(experiment, data=many_shards), sum(sizes(many_shards))
    found = [
        declared.fit(workers=2, fuse=fuse, shard_memory=total // 4, store=tmp_path / str(fuse), progress=False)
        for fuse in (False, True)
    ]
    assert digests(found[0]) == digests(found[1])
    assert read_bytes(found[1]) <= 1.3 * declared.epochs * total


def test_the_plan_says_what_is_read_and_then_what_was(experiment, many_shards, tmp_path):
    declared = replace(experiment, data=many_shards)
    short = {"engine": "inline", "workers": 1, "shard_memory": sum(sizes(many_shards)) // 4, "store": tmp_path}
    assert "read" not in declared.explain(engine="inline", workers=1, store=tmp_path)
    planned = declared.explain(**short)
    assert "order same, shared-scan" in planned
    assert "for shards of" in planned
    result = declared.fit(**short, progress=False)
    assert f"| actual {bytes_text(read_bytes(result))}" in declared.explain("actual", **short)


def test_a_shard_that_changed_on_the_disk_is_noticed_when_it_is_read_again(experiment, tmp_path):
    """Its hash is compared at every read, also where size and time of change are what they were."""
    path = tmp_path / "own.shards"
    dataset = cerebro.ingest(signals(), path, shards=16, label="label")
    shards, file = OpenShards(dataset), path / dataset.splits["train"][0].file
    assert shards.take_up("train", 0, Reading(True, stays=False)) == dataset.splits["train"][0].bytes
    shards.put_down(Reading(True, stays=False))
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shards.take_up("train", 0, Reading(False, stays=False)) == 0  # it was compared when it was read
    with pytest.raises(ShardError, match="has changed since it was written"):
        shards.take_up("train", 0, Reading(True, stays=False))
    assert issubclass(ShardError, DataError)


def test_memory_for_less_than_a_shard_on_each_worker_is_refused(experiment, many_shards):
    with pytest.raises(SpecError, match=r"cannot hold a shard on each of 2 workers, the largest has .*: give "):
        replace(experiment, data=many_shards).explain(workers=2, shard_memory=max(sizes(many_shards)))
