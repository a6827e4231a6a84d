"""What ingesting promises: every row once, the same bytes for the same rows, all or nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.errors import DataError
from cerebro.storage import ingest as ingesting
from cerebro.storage.dataset import Dataset, open_dataset
from cerebro.storage.ingest import ingest

ROOT = Path(__file__).resolve().parents[2]


def rows(count: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed)
    return {
        "id": np.arange(count),
        "window": draws.normal(size=(count, 2, 3)).astype(np.float32),
        "label": np.array(["walk", "sit", "stand"])[np.arange(count) % 3],
        "subject": np.arange(count) % 7,
    }


def column(dataset: Dataset, name: str, split: str | None = None) -> np.ndarray:
    """A column of all shards, one after another."""
    parts = []
    for each in dataset.splits if split is None else [split]:
        for index in range(len(dataset.splits[each])):
            with dataset.shard(each, index) as shard:
                parts.append(shard.columns[name])
    return np.concatenate(parts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_holds(dataset: Dataset, source: dict[str, np.ndarray]) -> None:
    """Every row of `source` is in `dataset` exactly once, whole."""
    ids = column(dataset, "id")
    assert sorted(ids.tolist()) == source["id"].tolist()
    assert (column(dataset, "window") == source["window"][ids]).all()
    assert (np.array(dataset.columns["label"].classes)[column(dataset, "label")] == source["label"][ids]).all()


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(30, 200),
    shards=st.integers(1, 6),
    seed=st.integers(0, 2**40),
    how=st.sampled_from([{}, {"group": "subject"}, {"stratify": True}]),
    block_bytes=st.sampled_from([1, 100, 1000, 10**6]),
)
def test_every_row_is_in_one_place_whatever_the_block_size(
    tmp_path_factory: pytest.TempPathFactory, count: int, shards: int, seed: int, how: dict, block_bytes: int
):
    folder, source = tmp_path_factory.mktemp("ingest"), rows(count)
    options: dict[str, Any] = {"label": "label", "shards": shards, "seed": seed, **how}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingesting, "BLOCK_BYTES", block_bytes)
        patch.setattr("cerebro.storage.shuffle._BLOCK_BYTES", block_bytes)
        dataset = ingest(source, folder / "one", **options)
    ingest(source, folder / "two", **options)
    assert contents(folder / "one") == contents(folder / "two")
    assert_holds(dataset, source)
    dataset.verify()
    if "group" in how:
        found = [set(column(dataset, "subject", split).tolist()) for split in dataset.splits]
        assert sum(map(len, found)) == len(set.union(*found))


def test_the_rows_are_shuffled_over_all_shards(tmp_path: Path):
    dataset = ingest(rows(3000), tmp_path / "d", shards=4, split=(1, 0, 0))
    for index in range(4):
        with dataset.shard("train", index) as shard:
            ids = shard.columns["id"]
            assert abs(ids.mean() - 1500) < 150
            assert abs(np.corrcoef(np.arange(len(ids)), ids)[0, 1]) < 0.15


def test_a_split_of_fraction_zero_has_no_shards(tmp_path: Path):
    dataset = ingest(rows(), tmp_path / "d", shards=2, split=(0.8, 0.2, 0))
    assert (dataset.rows("train"), dataset.rows("valid"), dataset.rows("test")) == (48, 12, 0)
    assert dataset.splits["test"] == ()


def test_codes_do_not_depend_on_the_order_of_rows(tmp_path: Path):
    source = rows()
    backwards = {name: values[::-1].copy() for name, values in source.items()}
    one, other = (ingest(s, tmp_path / n) for s, n in ((source, "one"), (backwards, "other")))
    assert one.columns["label"].classes == other.columns["label"].classes == ("sit", "stand", "walk")
    assert_holds(one, source)
    assert_holds(other, source)


def test_only_the_columns_asked_for_are_kept(tmp_path: Path):
    assert [*ingest(rows(), tmp_path / "d", columns=["label", "window"]).columns] == ["label", "window"]


def test_progress_counts_the_rows_of_each_step(tmp_path: Path):
    seen: list[tuple[str, int, int | None]] = []
    ingest(rows(), tmp_path / "d", shards=2, split=(1, 0, 0), progress=lambda *what: seen.append(what))
    assert seen == [("read", 60, 60), ("shuffle", 60, 60), ("write", 30, 60), ("write", 60, 60)]


def test_the_files_are_for_their_owner_and_nothing_else_is_left(tmp_path: Path):
    ingest(rows(), tmp_path / "d", shards=1, split=(1, 0, 0))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d", "manifest.json", "train-000.arrow"]
    assert [oct(path.stat().st_mode & 0o777) for path in sorted(tmp_path.rglob("*"))] == ["0o700", "0o600", "0o600"]


# --- all or nothing ---------------------------------------------------------------------------------------------


def interrupting(at: str) -> Any:
    def progress(step: str, done: int, total: int | None) -> None:
        if step == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("step", ["read", "shuffle", "write"])
def test_an_interrupted_ingest_leaves_nothing(tmp_path: Path, step: str):
    with pytest.raises(KeyboardInterrupt):
        ingest(rows(), tmp_path / "d", progress=interrupting(step))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["read", "shuffle", "write"])
def test_an_interrupted_overwrite_leaves_the_dataset_as_it_was(tmp_path: Path, step: str):
    ingest(rows(), tmp_path / "d")
    before = contents(tmp_path / "d")
    with pytest.raises(KeyboardInterrupt):
        ingest(rows(seed=1), tmp_path / "d", overwrite=True, progress=interrupting(step))
    assert (contents(tmp_path / "d"), len(list(tmp_path.iterdir()))) == (before, 1)


def test_overwriting_replaces_the_dataset(tmp_path: Path):
    old = ingest(rows(), tmp_path / "d", shards=4)
    new = ingest(rows(seed=1), tmp_path / "d", shards=2, overwrite=True)
    assert (new.digest, len(new.splits["train"])) == (open_dataset(tmp_path / "d").digest, 2)
    assert new.digest != old.digest
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_views_of_a_replaced_dataset_stay_as_they_were(tmp_path: Path):
    shard = ingest(rows(), tmp_path / "d").shard("train", 0)
    window = shard.columns["window"]
    before = window.copy()
    ingest(rows(seed=1), tmp_path / "d", overwrite=True)
    shard.close()
    assert (window == before).all()


def test_what_a_killed_ingest_leaves_is_removed_by_the_next(tmp_path: Path):
    script = (
        "import os, signal, sys, numpy\n"
        "from cerebro.storage.ingest import ingest\n"
        "def die(step, done, total):\n"
        "    if step == 'write': os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest({'x': numpy.arange(50)}, sys.argv[1], progress=die)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "d")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.rpartition("-")[0] for path in tmp_path.iterdir()] == [".d.partial"]
    ingest(rows(), tmp_path / "d").verify()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_dataset_moved_away_by_a_killed_overwrite_is_put_back(tmp_path: Path):
    ingest(rows(), tmp_path / "d")
    before = contents(tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / ".d.replaced-123")
    with pytest.raises(DataError, match="exists already"):
        ingest(rows(seed=1), tmp_path / "d")
    assert contents(tmp_path / "d") == before


def test_a_second_ingest_into_the_same_folder_is_refused_while_the_first_goes_on(tmp_path: Path):
    def again(step: str, done: int, total: int | None) -> None:
        if step == "shuffle":
            with pytest.raises(DataError) as raised:
                ingest(rows(), tmp_path / "d")
            errors.append(str(raised.value))

    errors: list[str] = []
    ingest(rows(), tmp_path / "d", progress=again).verify()
    assert errors == [f"process {os.getpid()} is making {tmp_path}/d now: wait for it, or stop it first"]


def test_another_dataset_beside_it_is_no_obstacle(tmp_path: Path):
    def other(step: str, done: int, total: int | None) -> None:
        if step == "shuffle":
            ingest(rows(), tmp_path / "d.2")

    ingest(rows(), tmp_path / "d", progress=other).verify()


def test_a_full_disk_is_told_before_the_source_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(ingesting.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(DataError) as raised:
        ingest(rows(), tmp_path / "d")
    assert str(raised.value) == (
        f"the disk of {tmp_path} is full: about 5.6 KiB needed, 1000 B free; make room, or choose another disk"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["cerebro.storage.ingest.scatter", "cerebro.storage.shards._HashingFile.write"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(DataError, match=r"^the disk of .* is full: about 5.6 KiB needed; make room"):
        ingest(rows(), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


# --- the same data from anywhere --------------------------------------------------------------------------------


def as_table(source: dict[str, np.ndarray]) -> pa.Table:
    window = source["window"]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(window.reshape(-1)), 3)
    return pa.table(
        {
            "id": source["id"],
            "window": pa.FixedSizeListArray.from_arrays(flat, 2),
            "label": source["label"],
            "subject": source["subject"],
        }
    )


def write_parquet(source: dict[str, np.ndarray], path: Path) -> Path:
    pq.write_table(as_table(source), path, row_group_size=17)
    return path


def write_folder(source: dict[str, np.ndarray], path: Path) -> Path:
    path.mkdir()
    for start in (0, 25):
        part = {name: values[start : 25 if start == 0 else None] for name, values in source.items()}
        write_parquet(part, path / f"part-{start:02d}.parquet")
    (path / "_SUCCESS").touch()
    return path


def write_npz(source: dict[str, np.ndarray], path: Path) -> Path:
    np.savez(path, **source)
    return path


def write_npz_compressed(source: dict[str, np.ndarray], path: Path) -> Path:
    np.savez_compressed(path, **source)
    return path


def write_npz_fortran(source: dict[str, np.ndarray], path: Path) -> Path:
    np.savez(path, **{name: np.asfortranarray(values) for name, values in source.items()})
    return path


def polars_frame(source: dict[str, np.ndarray], path: Path) -> Any:
    return pytest.importorskip("polars").from_arrow(as_table(source))


def pandas_frame(source: dict[str, np.ndarray], path: Path) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({**source, "window": [[list(r) for r in w] for w in source["window"]]}).assign(
        window=lambda frame: [[np.asarray(r, np.float32) for r in w] for w in frame["window"]]
    )


SOURCES = {
    "parquet": lambda source, path: write_parquet(source, path.with_suffix(".parquet")),
    "folder": write_folder,
    "npz": lambda source, path: write_npz(source, path.with_suffix(".npz")),
    "npz compressed": lambda source, path: write_npz_compressed(source, path.with_suffix(".npz")),
    "npz in fortran order": lambda source, path: write_npz_fortran(source, path.with_suffix(".npz")),
    "arrow table": lambda source, path: as_table(source),
    "arrow reader": lambda source, path: pa.RecordBatchReader.from_stream(as_table(source)),
    "arrow slices": lambda source, path: pa.concat_tables([as_table(source).slice(0, 7), as_table(source).slice(7)]),
    "lists": lambda source, path: (
        {name: values.tolist() for name, values in source.items()} | {"window": source["window"]}
    ),
    "polars": polars_frame,
    "pandas": pandas_frame,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_rows_give_the_same_bytes_from_every_kind_of_source(tmp_path: Path, kind: str):
    source = rows()
    ingest(source, tmp_path / "one", label="label", group="subject")
    ingest(SOURCES[kind](source, tmp_path / "source"), tmp_path / "two", label="label", group="subject")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_csv_file_gives_the_same_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = {"x": np.array([0.5, 2, np.nan] * 20), "n": np.arange(60), "word": np.array(['a "b"\n,c', "d"] * 30)}
    ingest(source, tmp_path / "one")
    quoted = ['"a ""b""\n,c"', "d"] * 30
    lines = [f"{x},{n},{word}" for x, n, word in zip(source["x"], source["n"], quoted, strict=True)]
    (tmp_path / "source.csv").write_text("\n".join(["x,n,word", *lines]))
    monkeypatch.setattr(ingesting, "BLOCK_BYTES", 100)
    ingest(tmp_path / "source.csv", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_one_changed_value_is_another_fingerprint(tmp_path: Path):
    source = rows()
    one = ingest(source, tmp_path / "one")
    source["window"][30, 1, 1] += 1
    other = ingest(source, tmp_path / "two")
    assert (one.source != other.source, one.digest != other.digest) == (True, True)
    assert one.options == other.options
