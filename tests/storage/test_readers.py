"""A value means the same whatever type it arrives in."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cerebro.storage.dataset import Column
from cerebro.storage.ingest import ingest
from cerebro.storage.readers import FILES, OBJECTS, open_source
from cerebro.storage.readers.base import Strings

WINDOW = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
WORDS = ["b", "a", "b", "c"]


def read(source: Any, block_bytes: int = 1) -> list[Any]:
    """The column `x` of a source, read in blocks of a row or so."""
    rows: list[Any] = []
    for block in open_source(source).blocks(["x"], block_bytes):
        values = block["x"]
        if isinstance(values, Strings):
            rows += [values.words[index] for index in values.indices]
        else:
            rows += values.tolist()
    return rows


def tensors() -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(WINDOW)


ARROW = {
    "fixed size lists": (pa.array(WINDOW.tolist(), pa.list_(pa.list_(pa.float32(), 3), 2)), WINDOW.tolist()),
    "lists": (pa.array(WINDOW.tolist(), pa.list_(pa.list_(pa.float32()))), WINDOW.tolist()),
    "large lists": (pa.array(WINDOW.tolist(), pa.large_list(pa.list_(pa.float32(), 3))), WINDOW.tolist()),
    "tensors": (tensors(), WINDOW.tolist()),
    "lists of booleans": (pa.array([[True, False]] * 3), [[1, 0]] * 3),
    "strings": (pa.array(WORDS), WORDS),
    "large strings": (pa.array(WORDS, pa.large_string()), WORDS),
    "string views": (pa.array(WORDS, pa.string_view()), WORDS),
    "categories": (pa.array(WORDS).dictionary_encode(), WORDS),
    "categories of numbers": (pa.array([3, 1, 3]).dictionary_encode(), [3, 1, 3]),
    "booleans": (pa.array([True, False, True]), [1, 0, 1]),
    "dates": (pa.array([0, 1], pa.date32()), [0, 1]),
    "times": (pa.array([datetime(1970, 1, 1, 0, 0, 1)], pa.timestamp("ms")), [1000]),
    "half floats": (pa.array(np.array([1, 2], np.float16)), [1.0, 2.0]),
}


@pytest.mark.parametrize("kind", ARROW)
@pytest.mark.parametrize("block_bytes", [1, 10**6])
def test_arrow_types_become_plain_values(kind: str, block_bytes: int):
    array, expected = ARROW[kind]
    assert read(pa.table({"x": array}), block_bytes) == expected
    twice = pa.table({"x": pa.chunked_array([array, array.slice(1)])})
    assert read(twice, block_bytes) == expected + expected[1:]
    assert read({"x": array}, block_bytes) == expected


@pytest.mark.parametrize("kind", [kind for kind in ARROW if kind != "string views"])
def test_parquet_gives_what_was_written(tmp_path: Path, kind: str):
    array, expected = ARROW[kind]
    pq.write_table(pa.table({"x": array}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == expected


NUMPY = {
    "text": (np.array(WORDS), WORDS),
    "bytes": (np.array(WORDS, "S"), WORDS),
    "variable text": (np.array(WORDS, np.dtypes.StringDType()), WORDS),
    "objects": (np.array(WORDS, object), WORDS),
    "big endian": (np.array([1, 2], ">i4"), [1, 2]),
    "booleans": (np.array([True, False]), [1, 0]),
    "times": (np.array(["1970-01-01T00:00:01"], "M8[ms]"), [1000]),
    "strides": (np.arange(10)[::-3], [9, 6, 3, 0]),
    "uint8": (np.array([255], np.uint8), [255]),
}


@pytest.mark.parametrize("kind", NUMPY)
def test_numpy_types_become_plain_values(kind: str):
    array, expected = NUMPY[kind]
    assert read({"x": array}) == expected


@pytest.mark.parametrize("kind", [kind for kind in NUMPY if kind not in ("objects", "variable text")])
def test_npz_gives_what_was_written(tmp_path: Path, kind: str):
    array, expected = NUMPY[kind]
    np.savez_compressed(tmp_path / "x.npz", x=array)
    assert read(tmp_path / "x.npz") == expected


def test_categories_of_frames_are_texts_and_unused_ones_are_no_classes(tmp_path: Path):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    categories = pandas.Categorical(WORDS, categories=["z", "c", "b", "a"])
    frames = [
        pandas.DataFrame({"x": categories}),
        polars.DataFrame({"x": polars.Series(WORDS, dtype=polars.Categorical)}),
        polars.DataFrame({"x": polars.Series(WORDS, dtype=polars.Enum(["z", "c", "b", "a"]))}),
    ]
    for index, frame in enumerate(frames):
        assert read(frame) == WORDS
        dataset = ingest(frame, tmp_path / str(index), shards=1, split=(1, 0, 0))
        assert dataset.columns["x"] == Column("int64", (), ("a", "b", "c"))


def test_a_polars_array_is_a_window():
    polars = pytest.importorskip("polars")
    assert read(polars.DataFrame({"x": WINDOW})) == WINDOW.tolist()


def test_a_duckdb_relation_is_a_source():
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql("select range as x from range(5)")
    if not hasattr(relation, "__arrow_c_stream__"):
        pytest.skip("this duckdb does not speak the Arrow PyCapsule protocol")
    assert read(relation) == [0, 1, 2, 3, 4]


def test_opening_a_stream_reads_none_of_it():
    def batches() -> Any:
        raise AssertionError("read")
        yield

    schema = pa.schema({"x": pa.int64()})
    assert open_source(pa.RecordBatchReader.from_batches(schema, batches())).fields == {"x": "int64"}


def test_the_registry_names_every_kind_of_source():
    assert [*FILES] == [".parquet", ".pq", ".csv", ".npz"]
    assert len(OBJECTS) == 2
