"""Names, digests and canonical JSON: how things are called and how they are told apart."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cerebro.errors import SpecError

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def check_name(name: object, field: str = "name") -> str:
    """The name itself, if it may be a folder and a web address on every system.

    Raises:
        SpecError: anything but 1 to 64 of the characters a-z, 0-9 and '-'.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(f"{field}: {name!r} is not a name: use 1 to 64 of the characters a-z, 0-9 and '-'")
    return name


def model_id(index: int) -> str:
    """The id of the model at `index` (from 0): `m001`, `m002`, ..."""
    return f"m{index + 1:03d}"


def model_index(model: str) -> int:
    """The index of a model, the same for all repeats of its config: the inverse of `model_id`."""
    return int(model.partition("-")[0][1:]) - 1


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, numbers as `repr` writes them."""
    return _CANONICAL.encode(value)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_bytes(data: Any) -> str:
    """SHA-256 (hex) of a bytes-like object, read in place."""
    return hashlib.sha256(data).hexdigest()


def unit_id(lineage: Mapping[str, Any]) -> str:
    """The id of a unit: the digest of everything its result is a function of."""
    return digest(lineage)
