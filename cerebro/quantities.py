"""Seconds, bytes, counts and dollars as people read and write them."""

import re

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"\s*".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?)\s*{unit})?" for unit in _SPANS))


def seconds_text(seconds: float) -> str:
    """`0.004` is `4 ms`, `75` is `1 min 15 s`, `7500` is `2 h 05 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms" if seconds < 0.0995 else f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(count: float) -> str:
    """`2048` is `2.0 KiB`."""
    for unit in _BYTES:
        if count < 1024 or unit == _BYTES[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def parse_bytes(text: str) -> int | None:
    """Bytes that are written as `4096`, `512MB`, `2GB` or `1.5GiB`; None if they are not."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", text.strip().lower())
    if found is None:
        return None
    count, prefix, binary = found.groups()
    return int(float(count) * (1024 if binary else 1000) ** (" kmgt".index(prefix) if prefix else 0))


def count_text(count: int, noun: str) -> str:
    """`1 model`, `16 models`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_span(text: str) -> float | None:
    """Seconds that are written as `90`, `90s`, `15m`, `2h`, `1d` or `1h30m`; None if they are not."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    found = _SPAN.fullmatch(text)
    if found is None or not text:
        return None
    return sum(float(count) * _SPANS[unit] for unit, count in found.groupdict().items() if count is not None)


def span_text(seconds: float) -> str:
    """A span as one writes it, so that `parse_span` reads it again: `7200` is `2h`, `5400` is `1h30m`."""
    parts, rest = list[str](), seconds
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _SPANS[unit])
        parts += [f"{count:.0f}{unit}"] if count else []
    parts += [f"{rest:g}s"] if rest or not parts else []
    return "".join(parts)


def spent_text(seconds: float) -> str:
    """What was spent of a span, in its two largest units: `7200` is `2h 0m`, `2292` is `38m 12s`, `12.3` is `12s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if seconds >= 10 or seconds == whole else f"{seconds:.2g}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def dollars_text(dollars: float) -> str:
    """`1234.5` is `$1,234.50`, `0.0123` is `$0.012`: two digits that say something."""
    if dollars == 0 or dollars >= 0.095:
        return f"${dollars:,.2f}"
    return f"${dollars:.2g}" if dollars >= 0.0001 else "under $0.0001"
