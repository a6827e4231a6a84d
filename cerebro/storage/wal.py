"""Reading SQLite's write-ahead log as far as it is whole: SQLite itself drops what follows a damaged frame in silence.

The format is that of https://www.sqlite.org/fileformat2.html#the_write_ahead_log. Each frame carries a checksum over
itself and all frames before it, and two salts that tell frames of this log from older ones that were not overwritten.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x377F0682
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")


@dataclass(frozen=True, slots=True)
class TornLog:
    """A log that cannot be read to its end: it was damaged, or was being written when the power went."""

    file: Path
    frame: int
    """The first frame that is not whole, from 0."""
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.file} is damaged at frame {self.frame}: expected {self.expected}, found {self.found}. "
            "What it held after that is lost, and is computed again"
        )


def torn_log(file: Path) -> TornLog | None:
    """Where a write-ahead log stops being readable before its end; None if it is whole, empty or not there.

    Only for logs that nobody is writing.
    """
    try:
        log = file.read_bytes()
    except FileNotFoundError:
        return None
    if not log:
        return None
    if len(log) < _HEADER.size:
        return TornLog(file, 0, f"a header of {_HEADER.size} bytes", f"{len(log)} bytes")
    magic, _, page_bytes, _, *salts, first, second = _HEADER.unpack_from(log)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, log[:24], (0, 0))
    if magic & ~1 != _MAGIC or sums != (first, second):
        return TornLog(file, 0, f"checksum {_hex(first, second)} of the header", _hex(*sums))
    return _first_torn(file, log, order, page_bytes, (salts[0], salts[1]), sums)


def _first_torn(
    file: Path, log: bytes, order: str, page_bytes: int, salts: tuple[int, int], sums: tuple[int, int]
) -> TornLog | None:
    size = _FRAME.size + page_bytes
    count = (len(log) - _HEADER.size) // size
    starts = [_HEADER.size + number * size for number in range(count)]
    for number, start in enumerate(starts):
        *_, salt, other, first, second = _FRAME.unpack_from(log, start)
        if (salt, other) != salts:
            rest = [_FRAME.unpack_from(log, later)[2:4] for later in starts[number:]]
            # Frames of an older log have other salts, both of them, and no frame of this log comes after them.
            newer = salt == salts[0] or other == salts[1] or salts in rest
            return TornLog(file, number, f"salts {_hex(*salts)}", _hex(salt, other)) if newer else None
        sums = _checksum(order, log[start : start + 8] + log[start + _FRAME.size : start + size], sums)
        if sums != (first, second):
            return TornLog(file, number, f"checksum {_hex(first, second)}", _hex(*sums))
    rest_bytes = (len(log) - _HEADER.size) % size
    return TornLog(file, count, f"a frame of {size} bytes", f"{rest_bytes} bytes") if rest_bytes else None


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    one, other = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        one = (one + words[index] + other) & 0xFFFFFFFF
        other = (other + words[index + 1] + one) & 0xFFFFFFFF
    return one, other


def _hex(one: int, other: int) -> str:
    return f"{one:08x}{other:08x}"
