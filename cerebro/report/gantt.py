"""The schedule as it happened: which worker ran which unit when."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from cerebro.quantities import bytes_text, seconds_text
from cerebro.report.svg import Frame, Scale, drawing, element, text, title
from cerebro.storage.catalog import UnitRow

BARS_MAX = 5000
_ROW = 26
_SAME_MODEL_GAP_SHARE = 0.002
_STEPS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_TICKS = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """One unit, or some adjacent ones of the same worker, on the time axis of all runs."""

    worker: int
    model: str
    kind: str
    start: float
    end: float
    tip: str
    units: int = 1


@dataclass(frozen=True, slots=True)
class Timeline:
    """All bars, and where each run begins; runs follow each other without the time between them."""

    bars: tuple[Bar, ...]
    runs: tuple[tuple[int, float], ...]
    """(number of the run, its start)."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Use:
    """What one worker did."""

    worker: int
    units: int
    busy_seconds: float
    share: float
    """Of the time of the runs that it took part in."""
    moved_bytes: int
    peak_bytes: int


def timeline(units: Sequence[UnitRow]) -> Timeline:
    """The units on one time axis that starts at 0 and has no gap between runs."""
    bars: list[Bar] = []
    runs: list[tuple[int, float]] = []
    offset = 0.0
    for run, group in groupby(sorted(units, key=lambda unit: (unit.run, unit.started)), key=lambda unit: unit.run):
        rows = list(group)
        begun = rows[0].started
        runs.append((run, offset))
        bars += [_bar(row, offset - begun) for row in rows]
        offset = max(bar.end for bar in bars[-len(rows) :])
    return Timeline(tuple(bars), tuple(runs), offset)


def utilisation(units: Sequence[UnitRow]) -> tuple[Use, ...]:
    """What each worker did, by number."""
    spans: dict[int, tuple[float, float]] = {}
    for row in units:
        begun, ended = spans.get(row.run, (row.started, row.started))
        spans[row.run] = min(begun, row.started), max(ended, row.started + row.seconds)
    workers: dict[int, list[UnitRow]] = {}
    for row in units:
        workers.setdefault(row.worker, []).append(row)
    return tuple(_use(worker, workers[worker], spans) for worker in sorted(workers))


def merged(line: Timeline, limit: int = BARS_MAX) -> tuple[Bar, ...]:
    """At most about `limit` bars: first adjacent ones of one model become one, then those too narrow to tell apart."""
    if len(line.bars) <= limit:
        return line.bars
    ordered = sorted(line.bars, key=lambda bar: (bar.worker, bar.start))
    gap = line.seconds * _SAME_MODEL_GAP_SHARE
    joined = _joined(ordered, lambda last, bar: last.model == bar.model and bar.start - last.end <= gap)
    if len(joined) <= limit:
        return tuple(joined)
    step = 2 * line.seconds * len({bar.worker for bar in joined}) / limit
    return tuple(_joined(joined, lambda last, bar: bar.end - last.start <= step))


def gantt(line: Timeline, colours: Mapping[str, str], width: int = 1120) -> str:
    """Units over workers: train units full, valid units thinner and lighter, coloured by model."""
    bars = merged(line)
    if not bars:
        return ""
    workers = sorted({bar.worker for bar in bars})
    frame = Frame(46, 22, width - 10, 22 + _ROW * len(workers))
    x = Scale(0.0, line.seconds or 1.0, frame.left, frame.right)
    tops = {worker: frame.top + _ROW * index for index, worker in enumerate(workers)}
    parts = [
        text(frame.left - 8, top + _ROW / 2 + 4, f"w{worker}", class_="tick end") for worker, top in tops.items()
    ] + [element("rect", x=frame.left, y=top + 3, width=frame.right - frame.left, height=_ROW - 6, class_="lane")
         for top in tops.values()]  # fmt: skip
    parts += [_rect(bar, tops[bar.worker], x, colours.get(bar.model, "#888")) for bar in bars]
    parts += _run_marks(line, frame, x)
    parts += [
        text(x(value), frame.bottom + 18, seconds_text(value) if value else "0", class_="tick middle")
        for value in _ticks(line.seconds)
    ]
    return drawing(width, frame.bottom + 28, parts, "Schedule: units over workers")


def _ticks(seconds: float) -> list[float]:
    """Round moments from 0 to `seconds`: whole minutes and hours where it takes that long."""
    step = next((step for step in _STEPS if seconds / step <= _TICKS), seconds / _TICKS)
    return [index * step for index in range(int(seconds / step) + 1)]


def _bar(row: UnitRow, shift: float) -> Bar:
    unit, start = row.unit, row.started + shift
    tip = f"{unit.model}  {unit.kind}  epoch {unit.epoch}  shard {unit.shard}  {seconds_text(row.seconds)}"
    if row.moved_bytes:
        tip += f"  moved {bytes_text(row.moved_bytes)}"
    return Bar(row.worker, unit.model, unit.kind, start, start + row.seconds, tip)


def _joined(bars: Sequence[Bar], belongs: Callable[[Bar, Bar], bool]) -> list[Bar]:
    """The bars of each worker, runs of those that belong together as one, in the look of its longest part."""
    result: list[Bar] = []
    longest = 0.0
    for bar in bars:
        last = result[-1] if result else None
        if last is None or last.worker != bar.worker or not belongs(last, bar):
            result.append(bar)
            longest = bar.end - bar.start
            continue
        units = last.units + bar.units
        look = bar if bar.end - bar.start > longest else last
        longest = max(longest, bar.end - bar.start)
        tip = f"{look.model if last.model == bar.model else look.model + ' and others'}  {units} units"
        span = f"  {seconds_text(bar.end - last.start)}"
        result[-1] = replace(look, start=last.start, end=max(last.end, bar.end), tip=tip + span, units=units)
    return result


def _rect(bar: Bar, top: float, x: Scale, fill: str) -> str:
    left, right = x(bar.start), x(bar.end)
    valid = bar.kind == "valid"
    inset = 7.0 if valid else 4.0
    return (
        f'<rect x="{left:.1f}" y="{top + inset:.0f}" width="{max(right - left - 0.3, 0.4):.1f}" '
        f'height="{_ROW - 2 * inset:.0f}" fill="{fill}"{" class=v" if valid else ""}>{title(bar.tip)}</rect>'
    )


def _run_marks(line: Timeline, frame: Frame, x: Scale) -> list[str]:
    if len(line.runs) < 2:
        return []
    marks: list[str] = []
    for run, start in line.runs:
        at = x(start)
        marks.append(element("line", x1=at, x2=at, y1=frame.top - 12, y2=frame.bottom, class_="run"))
        marks.append(text(at + 4, frame.top - 5, f"run {run}", class_="tick"))
    return marks


def _use(worker: int, rows: Sequence[UnitRow], spans: Mapping[int, tuple[float, float]]) -> Use:
    present = sum(spans[run][1] - spans[run][0] for run in {row.run for row in rows})
    busy = sum(row.seconds for row in rows)
    return Use(
        worker=worker,
        units=len(rows),
        busy_seconds=busy,
        share=min(1.0, busy / present) if present > 0 else 0.0,
        moved_bytes=sum(row.moved_bytes for row in rows),
        peak_bytes=max(row.peak_bytes for row in rows),
    )
