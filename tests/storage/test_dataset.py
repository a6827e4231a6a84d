"""A dataset can be read by anyone, and says so when it is not what it was."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cerebro.errors import DataError
from cerebro.ids import digest
from cerebro.storage.dataset import Column, open_dataset
from cerebro.storage.ingest import ingest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = {
        "window": np.arange(60 * 6, dtype=np.float32).reshape(60, 2, 3),
        "label": np.array(["no", "yes"] * 30),
        "weight": np.arange(60, dtype=np.float16),
        "valid": np.array([True, False] * 30),
        "when": np.arange(60).astype("datetime64[s]"),
    }
    ingest(source, tmp_path / "d", shards=2, label="label")
    return tmp_path / "d"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": digest(content)}))


def test_columns_say_what_a_row_holds(folder: Path):
    assert dict(open_dataset(folder).columns) == {
        "window": Column("float32", (2, 3)),
        "label": Column("int64", (), ("no", "yes")),
        "weight": Column("float16"),
        "valid": Column("uint8"),
        "when": Column("int64"),
    }


def test_columns_of_a_shard_are_views_of_the_file_that_cannot_be_written(folder: Path):
    with open_dataset(folder).shard("train", 1) as shard:
        shapes = {name: values.shape for name, values in shard.columns.items()}
        assert shapes == {"window": (21, 2, 3), "label": (21,), "weight": (21,), "valid": (21,), "when": (21,)}
        assert [values.flags.owndata or values.flags.writeable for values in shard.columns.values()] == [False] * 5
        assert (shard.columns["window"][:, 0, 0] == 6 * shard.columns["when"]).all()


def test_a_shard_is_mapped_without_loading_pandas(folder: Path):
    code = (
        "import sys; from pathlib import Path; from cerebro.storage.dataset import open_dataset\n"
        "shard = open_dataset(Path(sys.argv[1])).shard('train', 0)\n"
        "print(len(shard.columns), 'pandas' in sys.modules, 'pyarrow.compute' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    columns, *loaded = done.stdout.split()
    assert (int(columns) > 0, loaded) == (True, ["False", "False"])


def test_a_closed_shard_says_so(folder: Path):
    shard = open_dataset(folder).shard("train", 0)
    shard.close()
    with pytest.raises(DataError, match=r"^shard train-000.arrow is closed: open it again"):
        _ = shard.columns


def test_a_dataset_is_a_value(folder: Path):
    dataset = open_dataset(folder)
    assert (dataset, hash(dataset.digest)) == (open_dataset(folder), hash(open_dataset(folder).digest))
    with pytest.raises(FrozenInstanceError):
        dataset.label = None  # pyright: ignore[reportAttributeAccessIssue]


def test_a_dataset_describes_itself(folder: Path):
    dataset = open_dataset(folder)
    assert repr(dataset) == f"Dataset('{folder}', 60 rows, shards 2 train + 1 valid + 1 test, label 'label')"
    assert dataset.describe().splitlines()[1:8] == [
        "",
        "column  dtype    shape",
        "window  float32  [2, 3]",
        "label   int64            label, 2 classes: no, yes",
        "weight  float16",
        "valid   uint8",
        "when    int64",
    ]


def test_a_shard_file_is_one_record_batch_with_the_shape_in_its_metadata(folder: Path):
    file = pa.ipc.open_file(pa.memory_map(str(folder / "train-000.arrow")))
    assert file.num_record_batches == 1
    assert file.schema.field("window").metadata == {b"shape": b"[2, 3]"}
    assert str(file.schema.field("window").type) == "fixed_size_list<item: float not null>[6]"


def test_pandas_polars_and_duckdb_read_a_shard(folder: Path):
    pandas, polars, duckdb = (pytest.importorskip(name) for name in ("pandas", "polars", "duckdb"))
    path = folder / "train-000.arrow"
    with open_dataset(folder).shard("train", 0) as shard:
        expected = shard.columns["window"].reshape(-1, 6)
        assert (np.stack(pandas.read_feather(path)["window"]) == expected).all()
        assert (polars.read_ipc(path)["window"].to_numpy() == expected).all()
        shard_table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().select(["window", "label"])
        found = duckdb.sql('select sum("window"[1]), count(*) from shard_table').fetchall()
        assert (found, len(shard_table)) == ([(expected[:, 0].sum(), 21)], 21)


def test_a_changed_byte_is_found_and_named(folder: Path):
    dataset = open_dataset(folder)
    dataset.verify()
    path = folder / "valid-000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    expected = dataset.splits["valid"][0].sha256
    for check in (dataset.verify, lambda: dataset.shard("valid", 0, verify=True)):
        with pytest.raises(
            DataError, match=rf"valid-000.arrow has changed .*: sha256 {expected} expected, \w{{64}} found"
        ):
            check()
    dataset.shard("train", 0, verify=True)


def test_missing_and_cut_shards_are_found_when_the_dataset_is_opened(folder: Path):
    dataset = open_dataset(folder)
    path = folder / "test-000.arrow"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(
        DataError, match=rf"test-000.arrow is damaged: {len(data):,} bytes expected, {len(data) - 1:,} "
    ):
        open_dataset(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"test-000.arrow is missing: restore it, or ingest the source again$"):
        open_dataset(folder)
    with pytest.raises(DataError, match=r"test-000.arrow is missing: restore it, or ingest the source again$"):
        dataset.shard("test", 0)


def test_shards_of_another_dataset_are_refused(folder: Path, tmp_path: Path):
    other = ingest({"x": np.arange(50)}, tmp_path / "other", shards=1)
    dataset = open_dataset(folder)
    (folder / "train-000.arrow").write_bytes((other.path / "train-000.arrow").read_bytes())
    with pytest.raises(DataError, match=r"train-000.arrow does not hold the 21 rows of its manifest"):
        dataset.shard("train", 0)


def test_what_a_dataset_does_not_have_is_refused(folder: Path):
    dataset = open_dataset(folder)
    for ask, message in (
        (lambda: dataset.rows("dev"), "there is no split 'dev', only train, valid, test"),
        (lambda: dataset.shard("train", 2), "train has 2 shards, there is no shard 2"),
        (lambda: dataset.shard("train", -1), "train has 2 shards, there is no shard -1"),
    ):
        with pytest.raises(DataError) as raised:
            ask()
        assert str(raised.value) == f"{folder}: {message}"


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path):
    for path, what in ((tmp_path / "none", "does not exist"), (tmp_path, "is not a dataset: it has no manifest.json")):
        with pytest.raises(DataError) as raised:
            open_dataset(path)
        assert str(raised.value) == f"{path} {what}; make one with `cerebro ingest SOURCE {path}`"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "bagit"}, "is not the manifest of a Cerebro dataset"),
        ({"version": 3}, "is of version 3, this Cerebro reads 2: use the Cerebro that wrote it"),
        ({"splits": {}}, r"is damaged \(KeyError: 'train'\): ingest the source again"),
        ({"columns": []}, "is damaged"),
        ({"columns": [{"name": "x", "dtype": "object", "shape": []}]}, "is damaged"),
        ({"label": "y"}, r"is damaged \(ValueError: no column 'y'\)"),
        (
            {
                "splits": {
                    "train": [{"file": "../x", "rows": 1, "bytes": 1, "sha256": "0" * 64}],
                    "valid": [],
                    "test": [],
                }
            },
            r"is damaged \(ValueError: unexpected '../x'\)",
        ),
        ({"splits": {"train": [1], "valid": [], "test": []}}, "is damaged"),
    ],
)
def test_a_foreign_newer_or_damaged_manifest_is_refused(folder: Path, changes: dict, message: str):
    edit(folder, **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'"x"'])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, text: bytes):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest.json is (damaged|not the manifest)"):
        open_dataset(folder)
