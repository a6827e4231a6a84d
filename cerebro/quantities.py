"""Seconds, bytes and counts as people read them."""

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


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


def count_text(count: int, noun: str) -> str:
    """`1 model`, `16 models`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
