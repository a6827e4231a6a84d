"""Whatever is wrong is said before it does harm: what was asked, the value, what is allowed, what to do."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cerebro.errors import DataError
from cerebro.storage.ingest import ingest

X = np.arange(40)


def message_of(source: Any, destination: Path, **options: Any) -> str:
    """What ingesting raises; nothing is left behind."""
    before = sorted(destination.parent.iterdir()) if destination.parent.is_dir() else []
    with pytest.raises(DataError) as raised:
        ingest(source, destination, **options)
    assert (sorted(destination.parent.iterdir()) if destination.parent.is_dir() else []) == before
    return str(raised.value)


def lists(*values: Any, kind: Any = None) -> pa.Table:
    return pa.table({"x": pa.array(values, kind or pa.list_(pa.float32()))})


SPLIT = (
    "give three fractions (train, valid, test) of 0 or more that add up to 1, train above 0, such as (0.7, 0.15, 0.15)"
)

OPTIONS = [
    ({"shards": 0}, "shards=0: ask for 1 or more"),
    ({"shards": 2.0}, "shards=2.0: ask for 1 or more"),
    ({"seed": "x"}, "seed='x': give a whole number"),
    ({"shards": 41}, "shards=41: arrays has only 40 rows; ask for fewer shards"),
    ({"shards": 30}, "shards=30: 28 train rows cannot fill them; ask for fewer shards"),
    ({"split": (0.5, 0.1, 0.1)}, f"split=(0.5, 0.1, 0.1): {SPLIT}"),
    ({"split": (1.2, -0.1, -0.1)}, f"split=(1.2, -0.1, -0.1): {SPLIT}"),
    ({"split": (float("nan"), 0.5, 0.5)}, f"split=(nan, 0.5, 0.5): {SPLIT}"),
    ({"split": (0.5, 0.5)}, f"split=(0.5, 0.5): {SPLIT}"),
    ({"split": (0, 0.5, 0.5)}, f"split=(0, 0.5, 0.5): {SPLIT}"),
    ({"label": "y"}, "label 'y' is not a column of arrays; there are: x, one, few, real, window"),
    ({"group": "y"}, "group 'y' is not a column of arrays; there are: x, one, few, real, window"),
    ({"columns": ["x", "y"]}, "column 'y' is not a column of arrays; there are: x, one, few, real, window"),
    ({"columns": "x", "label": "few"}, "label 'few' is not among columns=['x']: add it"),
    ({"columns": []}, "columns=[]: name each column once, and at least one of: x, one, few, real, window"),
    (
        {"columns": ["x", "x"]},
        "columns=['x', 'x']: name each column once, and at least one of: x, one, few, real, window",
    ),
    ({"stratify": True}, "stratify=True: needs a label; give label=NAME"),
    (
        {"stratify": True, "label": "few", "group": "few"},
        "stratify=True and group='few': groups are kept whole, so give one of the two",
    ),
    (
        {"stratify": True, "label": "real"},
        "arrays: stratify=True and label 'real' is float64: it needs one text or whole number a row",
    ),
    ({"group": "window"}, "arrays: group 'window' is int64[2]: give one text or whole number a row"),
    (
        {"label": "one"},
        "label 'one': every row is of one class, 'a': there is nothing to learn; "
        "check the column, or ingest without a label",
    ),
    (
        {"group": "few"},
        "group 'few': 2 distinct values cannot fill 3 splits; set a fraction to 0, or split by rows",
    ),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any], message: str):
    source = {"x": X, "one": ["a"] * 40, "few": X % 2, "real": X / 2, "window": np.stack([X, X], 1)}
    assert message_of(source, tmp_path / "d", **options) == message


NO_VALUES = "has rows without values in row 0 (rows count from 0): leave it out with columns=[...]"
RAGGED = "in the rows before; pad or cut the rows to one shape"
FILL = "(rows count from 0): fill it, or leave the row out"

VALUES: list[tuple[Any, str]] = [
    ({}, "arrays: there are no columns: give at least one"),
    ({1: X}, "arrays: 1 is not a column name: use texts"),
    ({"x": []}, "arrays: has no rows"),
    ({"x": 5}, "arrays: column 'x' is a single value: leave it out with columns=[...]"),
    (
        {"x": X, "y": X[1:]},
        "arrays: columns are of unequal lengths: 'x' 40, 'y' 39; give each column one value per row",
    ),
    ({"x": np.empty((40, 0))}, f"arrays: column 'x' {NO_VALUES}"),
    ({"x": X * 1j}, "arrays: column 'x' is of type complex128: a dataset holds numbers, booleans, times and strings"),
    ({"x": ["a", None]}, f"arrays: column 'x' has a null in row 1 {FILL}"),
    ({"x": np.array(["2020", "NaT"], "M8[s]")}, f"arrays: column 'x' has a null in row 1 {FILL}"),
    (
        {"x": [[1, 2], [3, 4], [5]]},
        f"arrays: column 'x' is ragged: shape [1] in row 2 (rows count from 0), [2] {RAGGED}",
    ),
    (
        {"x": np.array([["a", "b"]])},
        "arrays: column 'x' holds several texts or objects a row: make it one text a row, or numbers",
    ),
    (lists([1.0], None), f"Table: column 'x' has a null in row 1 {FILL}"),
    (lists([1.0, 2.0], [3.0, None]), f"Table: column 'x' has a null in row 1 {FILL}"),
    (
        lists([1.0], [2.0], [3.0, 4.0]),
        f"Table: column 'x' is ragged: shape [2] in row 2 (rows count from 0), [1] {RAGGED}",
    ),
    (
        lists([[1.0], [2.0]], [[3.0], [4.0, 5.0]], kind=pa.list_(pa.list_(pa.float32()))),
        f"Table: column 'x' is ragged: shape [2, 2] in row 1 (rows count from 0), [2, 1] {RAGGED}",
    ),
    (lists([], []), f"Table: column 'x' {NO_VALUES}"),
    (
        pa.table({"x": pa.array([{"a": 1}])}),
        "Table: column 'x' is of type struct<a: int64>: a dataset holds numbers, booleans, times, strings, "
        "and lists of these numbers that all have the same length",
    ),
    (pa.table({"x": pa.array([1.0, None])}), f"Table: column 'x' has a null in row 1 {FILL}"),
    (pa.table({"x": pa.array([], pa.int64())}), "Table: has no rows"),
    (pa.table([X, X], ["x", "x"]), "Table: has more than one column 'x': rename them"),
    (
        7,
        "source: int is not a source: give a path, an Arrow table or reader, a pandas or polars frame, "
        "or a dict of arrays",
    ),
]


@pytest.mark.parametrize(("source", "message"), VALUES, ids=range(len(VALUES)))
def test_values_that_a_dataset_cannot_hold_are_named(tmp_path: Path, source: Any, message: str):
    assert message_of(source, tmp_path / "d", shards=1) == message


def test_rows_are_counted_through_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cerebro.storage.ingest.BLOCK_BYTES", 16)
    label = np.where(X == 33, np.nan, X)
    assert message_of({"x": X, "y": label}, tmp_path / "d", label="y") == (
        "arrays: column 'y' is the label and NaN in row 33 (rows count from 0): fill it, or leave the row out"
    )
    table = lists(*[[1.0, 2.0]] * 33, [1.0])
    assert message_of(table, tmp_path / "d") == (
        f"Table: column 'x' is ragged: shape [1] in row 33 (rows count from 0), [2] {RAGGED}"
    )


def test_nan_is_a_value_of_a_feature(tmp_path: Path):
    dataset = ingest({"x": np.where(X == 3, np.nan, X)}, tmp_path / "d", shards=1, split=(1, 0, 0))
    with dataset.shard("train", 0) as shard:
        assert np.isnan(shard.columns["x"]).sum() == 1


def test_a_missing_float_of_pandas_is_nan(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, None, 3.0]}, index=[4, 5, 6])
    dataset = ingest(frame, tmp_path / "d", shards=1, split=(1, 0, 0))
    with dataset.shard("train", 0) as shard:
        assert ([*shard.columns], np.isnan(shard.columns["x"]).sum()) == (["x"], 1)


def test_too_many_distinct_texts_are_refused(tmp_path: Path):
    source = {"x": np.arange(65_537).astype(str)}
    assert message_of(source, tmp_path / "d") == (
        "arrays: column 'x' has more than 65,536 distinct texts: leave it out with columns=[...], or make it numbers"
    )
    assert len(ingest({"x": source["x"][:-1]}, tmp_path / "d").columns["x"].classes or ()) == 65_536


# --- files ------------------------------------------------------------------------------------------------------


def test_a_missing_file_or_an_unknown_type_is_refused(tmp_path: Path):
    assert message_of(tmp_path / "x.csv", tmp_path / "d") == f"source: {tmp_path}/x.csv does not exist"
    (tmp_path / "x.json").touch()
    assert message_of(tmp_path / "x.json", tmp_path / "d") == (
        "source: x.json is of an unknown type: use a file or folder of .parquet, .pq, .csv, .npz"
    )


def test_a_folder_is_of_one_kind_and_one_schema(tmp_path: Path):
    folder = tmp_path / "source"
    folder.mkdir()
    assert message_of(folder, tmp_path / "d") == (
        f"source: the folder {folder} holds no file of .parquet, .pq, .csv, .npz"
    )
    pq.write_table(pa.table({"x": [1], "y": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"x": [1.5], "y": [1]}), folder / "b.parquet")
    assert message_of(folder, tmp_path / "d") == (
        "mixed columns: 'x' is int64 in a.parquet and double in b.parquet; "
        "write the files with the same columns and types"
    )
    pq.write_table(pa.table({"x": [1]}), folder / "b.parquet")
    assert message_of(folder, tmp_path / "d").startswith("mixed columns: 'y' is int64 in a.parquet and missing in b.p")
    (folder / "c.csv").write_text("x,y\n1,1\n")
    assert message_of(folder, tmp_path / "d") == (
        f"source: the folder {folder} mixes .csv, .parquet: keep one kind in a folder"
    )


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"nonsense" * 10)
    assert message_of(path, tmp_path / "d").startswith(f"x{suffix}: cannot be read: ")


def test_a_flipped_bit_in_an_npz_is_found(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(10_000))
    data = bytearray(path.read_bytes())
    data[40_000] ^= 1
    path.write_bytes(data)
    assert message_of(path, tmp_path / "d") == "x.npz: cannot be read: Bad CRC-32 for file 'x.npy'"


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([{}, 1], object), y=X)
    assert message_of(path, tmp_path / "d") == (
        "x.npz: column 'x' holds Python objects, which are never unpickled: save it as numbers or text"
    )
    assert [*ingest(path, tmp_path / "d", columns=["y"]).columns] == ["y"]


def test_an_npz_whose_array_ends_early_is_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", X)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes()[:-8])
    assert message_of(tmp_path / "x.npz", tmp_path / "d") == "x.npz: cannot be read: an array ends 8 bytes early"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: is empty: a CSV file starts with a line of column names"),
        ("x,y\n", "x.csv: has no rows"),
        ("x,y\n1,2\n3,\n", f"x.csv: column 'y' has a null in row 1 {FILL}"),
        ("x,y\n1,2\nNA,4\n", f"x.csv: column 'x' has a null in row 1 {FILL}"),
        ("x,y\n1,2\n3\n", "x.csv: cannot be read: CSV parse error: Expected 2 columns, got 1: 3"),
    ],
)
def test_a_csv_file_with_holes_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.csv").write_text(text)
    assert message_of(tmp_path / "x.csv", tmp_path / "d", shards=1).replace("Row #3: ", "") == message


# --- the destination --------------------------------------------------------------------------------------------


def test_what_is_in_the_way_is_never_lost(tmp_path: Path):
    existing = tmp_path / "d"
    existing.mkdir()
    (existing / "thesis.tex").touch()
    assert message_of({"x": X}, existing) == (
        f"{existing} exists already: give another destination, or overwrite=True to replace it"
    )
    refused = f"{existing} is not a dataset, so overwrite=True does not replace it: remove it yourself"
    assert message_of({"x": X}, existing, overwrite=True) == refused
    assert (existing / "thesis.tex").exists()


def test_a_source_inside_the_replaced_folder_is_refused(tmp_path: Path):
    ingest({"x": X}, tmp_path / "d")
    np.savez(tmp_path / "d" / "x.npz", x=X)
    assert message_of(tmp_path / "d" / "x.npz", tmp_path / "d", overwrite=True) == (
        f"the source {tmp_path}/d/x.npz is inside {tmp_path}/d, which overwrite=True removes: move it first"
    )


def test_a_destination_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    assert message_of({"x": X}, tmp_path / "file" / "d") == (
        f"cannot write {tmp_path}/file/d: {tmp_path}/file is not a folder; give another destination"
    )


def test_a_destination_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cerebro.storage.destination.os.access", lambda path, mode: False)
    assert message_of({"x": X}, tmp_path / "new" / "d") == (
        f"cannot write {tmp_path}/new/d: {tmp_path} may not be written by you; give another destination"
    )
