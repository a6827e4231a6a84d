"""Numbers, values of configs and other people's text, as they are shown to people."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"


def number_text(value: float | None) -> str:
    """Four significant digits: `0.9` is `0.9000`, `12345.6` is `12,346`; without a value a dash."""
    if value is None or not math.isfinite(value):
        return MISSING if value is None else str(value)
    if value == 0:
        return "0"
    if 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


def value_text(value: Any) -> str:
    """A value of a config: floats with at most four significant digits, lists and mappings as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return clean(text)


def config_text(config: Mapping[str, Any]) -> str:
    """`lr=0.001 width=32`, nested keys with dots."""
    return " ".join(f"{clean(key)}={value_text(value)}" for key, value in flat(config).items())


def clean(text: str) -> str:
    """The text on one line, without characters that move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else " " for character in text)


def first_line(text: str | None) -> str:
    """The first line of an error that has any text, cleaned."""
    lines = (text or "").strip().splitlines()
    return clean(lines[0]) if lines else ""


def clipped(text: str, width: int) -> str:
    """The text, its end replaced by an ellipsis where it is longer than `width`."""
    return text if len(text) <= width else text[: width - 1] + "…"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config with one level: `{"head": {"width": 8}}` is `{"head.width": 8}`."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def split_keys(configs: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The keys whose values differ between flat configs, and the constants with their values.

    A key that only some of them have (a conditional dimension) differs.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    constants: dict[str, Any] = {}
    varying: list[str] = []
    for key in keys:
        seen = {_identity(config[key]) if key in config else "" for config in configs}
        if len(seen) == 1:
            constants[key] = configs[0][key]
        else:
            varying.append(key)
    return tuple(varying), constants


def _identity(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
