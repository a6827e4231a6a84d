"""Rows at rest between the one reading of the source and the shuffle: fixed-width records in source order."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cerebro.errors import DataError
from cerebro.ids import canonical_json, digest
from cerebro.storage.readers.base import Array, Block, Place, Shape, Strings, Values

MAX_CLASSES = 65_536

_CODES = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a record: where its bytes are and what they mean. Text is kept as codes, int64."""

    name: str
    dtype: str
    shape: Shape
    is_text: bool
    offset: int

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))

    @property
    def end(self) -> int:
        """Where the next column begins."""
        return self.offset + self.bytes

    @property
    def is_code(self) -> bool:
        """Whether a row is one text or one whole number: something that rows can be grouped by."""
        return not self.shape and np.dtype(self.dtype).kind in "iu"


@dataclass(frozen=True, slots=True)
class Staged:
    """A whole source as records of `width` bytes.

    words: text column -> its distinct texts by first appearance; a record holds the index.
    kept: column -> its values (text: indices into `words`), `[rows]`, where they were asked for.
    fingerprint: SHA-256 of columns and rows, whatever file they came from.
    """

    path: Path
    fields: tuple[Field, ...]
    rows: int
    words: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, Array]
    fingerprint: str

    @property
    def width(self) -> int:
        """Bytes of one record."""
        return self.fields[-1].end


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked at while rows go by: values of the `label` and of the columns to `keep`."""

    source: str
    label: str | None = None
    keep: tuple[str, ...] = ()
    may_be_one_class: bool = False
    """Whether it is fine that all labels are the same, as in rows that join others."""


def layout(block: Block) -> tuple[Field, ...]:
    """The record of rows such as those of `block`."""
    fields: list[Field] = []
    for name, values in block.items():
        offset = fields[-1].end if fields else 0
        if isinstance(values, Strings):
            fields.append(Field(name, _CODES.name, (), True, offset))
        else:
            fields.append(Field(name, values.dtype.name, values.shape[1:], False, offset))
    return tuple(fields)


@dataclass(slots=True)
class Stage:
    """Records being written; `add` blocks in order, then `finish`."""

    file: BinaryIO
    fields: tuple[Field, ...]
    wanted: Wanted
    rows: int = 0
    _codes: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    _kept: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])
    _hash: Any = field(default_factory=hashlib.sha256)
    _first_label: object = None
    _labels_differ: bool = False

    def __post_init__(self) -> None:
        self._codes = {each.name: {} for each in self.fields if each.is_text}
        self._kept = {name: [] for name in self.wanted.keep}
        self._hash.update(canonical_json([[f.name, f.dtype, f.shape, f.is_text] for f in self.fields]).encode())

    def add(self, block: Block) -> None:
        """Write the rows of `block`.

        Raises:
            DataError: rows of another shape or type than the first, a NaN label, or too many distinct texts.
        """
        count = _rows(next(iter(block.values())))
        records = np.empty((count, self.fields[-1].end), np.uint8)
        for each in self.fields:
            values = self._numbers(each, block[each.name])
            self._look_at(each, values)
            records[:, each.offset : each.end] = np.ascontiguousarray(values).reshape(count, -1).view(np.uint8)
        self.rows += count
        self._hash.update(records.data)
        self.file.write(records.data)

    def finish(self) -> Staged:
        """What was written.

        Raises:
            DataError: there were no rows, or all labels are the same class.
        """
        label = self.wanted.label
        is_constant = label is not None and not self._labels_differ and self._field(label).is_code
        if label is not None and is_constant and not self.wanted.may_be_one_class:
            raise DataError(
                f"label {label!r}: every row is of one class, {self._word(label, self._first_label)!r}: "
                "there is nothing to learn; check the column, or ingest without a label"
            )
        words = {name: tuple(codes) for name, codes in self._codes.items()}
        fingerprint = digest([self._hash.hexdigest(), [[name, list(texts)] for name, texts in words.items()]])
        kept = {name: np.concatenate(parts) for name, parts in self._kept.items()}
        return Staged(Path(self.file.name), self.fields, self.rows, words, kept, fingerprint)

    def _numbers(self, each: Field, values: Values) -> Array:
        """The values as stored; text as codes by first appearance."""
        place = Place(self.wanted.source, each.name, self.rows)
        if isinstance(values, Strings) != each.is_text:
            raise place.error("is text in some rows and numbers in others: give it one type")
        if isinstance(values, Strings):
            return self._encode(each.name, values, place)
        if values.shape[1:] != each.shape:
            raise place.ragged(0, values.shape[1:], each.shape)
        if values.dtype.name != each.dtype:
            raise place.error(f"is {values.dtype.name}{{where}}, {each.dtype} in the rows before: give it one type", 0)
        return values

    def _encode(self, name: str, strings: Strings, place: Place) -> Array:
        codes = self._codes[name]
        lookup = np.array([codes.setdefault(word, len(codes)) for word in strings.words], _CODES)
        if len(codes) > MAX_CLASSES:
            raise place.error(
                f"has more than {MAX_CLASSES:,} distinct texts: leave it out with columns=[...], or make it numbers"
            )
        return lookup[strings.indices]

    def _look_at(self, each: Field, values: Array) -> None:
        if each.name in self._kept:
            self._kept[each.name].append(values.astype(np.int32) if each.is_text else values.copy())
        if each.name != self.wanted.label:
            return
        if values.dtype.kind == "f":
            missing = np.isnan(values.reshape(len(values), -1)).any(axis=1)
            if missing.any():
                place = Place(self.wanted.source, each.name, self.rows)
                raise place.error("is the label and NaN{where}: fill it, or leave the row out", int(missing.argmax()))
        elif each.is_code and not self._labels_differ:
            if self.rows == 0:
                self._first_label = values[0].item()
            self._labels_differ = bool((values != self._first_label).any())

    def _field(self, name: str) -> Field:
        return next(each for each in self.fields if each.name == name)

    def _word(self, name: str, code: object) -> object:
        return next(iter(self._codes[name])) if self._field(name).is_text else code


def records(staged_path: Path, width: int, first: int, rows: int, block_bytes: int) -> Iterator[tuple[int, Array]]:
    """Records `first` to `first + rows` of a file, as (rows before, records `[n, width]` uint8); not kept alive."""
    step = max(1, block_bytes // width)
    buffer = np.empty((min(step, rows), width), np.uint8)
    with staged_path.open("rb", buffering=0) as file:
        file.seek(first * width)
        for start in range(0, rows, step):
            block = buffer[: min(step, rows - start)]
            _fill(file, block.data.cast("B"))
            yield start, block


def in_order(words: Sequence[str]) -> tuple[tuple[str, ...], Array]:
    """The sorted `words`, and for each index into `words` its index among them."""
    order = sorted(range(len(words)), key=words.__getitem__)
    ranks = np.empty(len(words), _CODES)
    ranks[order] = np.arange(len(words))
    return tuple(words[index] for index in order), ranks


def _fill(file: FileIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise OSError("a temporary file is shorter than what was written to it")
        done += count


def _rows(values: Values) -> int:
    return len(values.indices if isinstance(values, Strings) else values)
