"""The manifest of a dataset: what its columns and shards are, as one JSON file. It is written last."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import DataError
from cerebro.ids import digest

FILE = "manifest.json"
FORMAT = "cerebro-dataset"
VERSION, GROWN_VERSION = 1, 2
"""Of a dataset as it was ingested, and of one that has grown."""

_SHARD_FILE = re.compile(r"(train|valid|test)-[0-9]{3,}\.arrow")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPE = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True, slots=True)
class Column:
    """What a row holds under one name: an array of `dtype` and `shape`.

    Text is kept as int64 codes, indices into `classes` (sorted); None for columns that never were text.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of rows."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known about a dataset without opening a shard.

    source: fingerprint of the rows it was made of, whatever file they came from.
    options: how it was made (seed, shards, split, ...).
    cycles: of a dataset that has grown, for each earlier manifest, oldest first, its digest, and the fingerprint of the
        rows that came with it.
    """

    columns: Mapping[str, Column]
    label: str | None
    group: str | None
    splits: Mapping[str, tuple[Shard, ...]]
    source: str
    options: Mapping[str, Any]
    cycles: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest as it is written."""
        columns = [
            {"name": name, "dtype": column.dtype, "shape": list(column.shape)}
            | ({} if column.classes is None else {"classes": list(column.classes)})
            for name, column in self.columns.items()
        ]
        splits = {
            split: [{"file": s.file, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in shards]
            for split, shards in self.splits.items()
        }
        rows = sum(shard.rows for shards in self.splits.values() for shard in shards)
        return {
            "format": FORMAT,
            "version": GROWN_VERSION if self.cycles else VERSION,
            "rows": rows,
            "columns": columns,
            "label": self.label,
            "group": self.group,
            "splits": splits,
            "source": self.source,
            "options": dict(self.options),
        } | ({"cycles": [list(cycle) for cycle in self.cycles]} if self.cycles else {})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into `folder`, and wait until it is on the disk."""
    content = manifest.to_json()
    sealed = {**content, "digest": digest(content)}
    text = json.dumps(sealed, sort_keys=True, indent=1, ensure_ascii=True) + "\n"
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def is_manifest(path: Path) -> bool:
    """Whether `path` is the manifest of a dataset of whatever version."""
    try:
        return json.loads(path.read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def earlier_file(cycle: int) -> str:
    """The name under which the manifest of an earlier cycle is kept."""
    return f"manifest-{cycle:03d}.json"


def read_manifest(folder: Path, file: str = FILE) -> tuple[Manifest, str]:
    """The manifest in `folder`, and the digest of its content.

    Raises:
        DataError: none there, not ours, newer than this version of Cerebro, or damaged.
    """
    path = folder / file
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        there = "is not a dataset: it has no manifest.json" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {there}; make one with `cerebro ingest SOURCE {folder}`") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): ingest the source again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a Cerebro dataset; make one with `cerebro ingest`")
    if content.get("version") not in (VERSION, GROWN_VERSION):
        raise DataError(
            f"{path} is of version {content.get('version')!r}, this Cerebro reads {GROWN_VERSION}: "
            "use the Cerebro that wrote it, or ingest the source again"
        )
    expected = content.pop("digest", None)
    found = digest(content)
    if found != expected:
        raise DataError(f"{path} is damaged: digest {expected} expected, {found} found; ingest the source again")
    try:
        return _parse(content), found
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): ingest the source again") from error


def _parse(content: Mapping[str, Any]) -> Manifest:
    columns = {_text(entry["name"]): _column(entry) for entry in content["columns"]}
    label, group = content["label"], content["group"]
    for name in (label, group):
        if name is not None and name not in columns:
            raise ValueError(f"no column {name!r}")
    splits = {split: tuple(_shard(entry) for entry in content["splits"][split]) for split in ("train", "valid", "test")}
    if not columns or not splits["train"]:
        raise ValueError("no columns or no train shards")
    cycles = tuple((_text(one, _SHA256), _text(other, _SHA256)) for one, other in content.get("cycles", ()))
    return Manifest(columns, label, group, splits, _text(content["source"]), dict(content["options"]), cycles)


def _column(entry: Mapping[str, Any]) -> Column:
    classes = entry.get("classes")
    return Column(
        _text(entry["dtype"], _DTYPE),
        tuple(_count(size) for size in entry["shape"]),
        None if classes is None else tuple(_text(word) for word in classes),
    )


def _shard(entry: Mapping[str, Any]) -> Shard:
    return Shard(
        _text(entry["file"], _SHARD_FILE),
        _count(entry["rows"]),
        _count(entry["bytes"]),
        _text(entry["sha256"], _SHA256),
    )


def _text(value: object, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError(f"unexpected {value!r}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"unexpected {value!r}")
    return value
