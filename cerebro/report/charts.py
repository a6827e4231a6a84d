"""The charts of a report: learning curves and the effect of each hyper-parameter."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cerebro.report.svg import Frame, Scale, axes, drawing, element, points, scale_for, suits_logarithm, text, title
from cerebro.report.wording import clipped, number_text, value_text

_POINTS_MAX = 20_000
_DOTTED_LINES_MAX = 24
_PLACES_MAX = 10
_CROWD = 40
_SPREAD = 16.0
_CHARACTER = 6.5
"""Pixels that a character of a tick takes."""


@dataclass(frozen=True, slots=True)
class Line:
    """The course of a metric of one model."""

    name: str
    description: str
    colour: str
    values: tuple[tuple[int, float], ...]
    """(epoch, value), finite values only."""
    is_best: bool = False
    is_near: bool = False
    """Among the best few, which keep their colour where there are many lines."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One model in the plot of a hyper-parameter."""

    value: Any
    """Of the hyper-parameter."""
    metric: float
    description: str
    colour: str
    is_best: bool = False


def curves(lines: Sequence[Line], heading: str, width: int = 560, height: int = 320) -> str:
    """A metric over the epochs, one line for each model, the best in front."""
    drawn = [line for line in lines if line.values]
    if not drawn:
        return ""
    frame = Frame(58, 30, width - 54, height - 44)
    epochs = [epoch for line in drawn for epoch, _ in line.values]
    x = Scale(min(epochs), max(max(epochs), min(epochs) + 1), frame.left, frame.right)
    values = [value for line in drawn for _, value in line.values]
    y = scale_for(values, frame.bottom, frame.top, logarithmic=_spans_decades(values))
    every = max(1, math.ceil(len(values) / _POINTS_MAX))
    crowded = len(drawn) > _DOTTED_LINES_MAX
    whole = Scale(x.low, x.high, x.start, x.end)
    parts = [axes(frame, y, None, "epoch", heading), _epoch_ticks(frame, whole)]
    for line in sorted(drawn, key=lambda line: (line.is_best, line.is_near)):
        parts.append(_curve(line, x, y, every, crowded))
    best = next((line for line in drawn if line.is_best), None)
    if best is not None:
        epoch, value = best.values[-1]
        parts.append(text(x(epoch) + 8, y(value) + 4, best.name, class_="tick strong"))
    return drawing(width, height, parts, f"{heading} over epochs")


def effect(name: str, dots: Sequence[Dot], metric: str, width: int = 360, height: int = 240) -> str:
    """The deciding metric against the values of one hyper-parameter; a bar marks the median of each value."""
    if not dots:
        return ""
    frame = Frame(54, 30, width - 16, height - 44)
    y = scale_for([dot.metric for dot in dots], frame.bottom, frame.top)
    numeric = all(isinstance(dot.value, int | float) and not isinstance(dot.value, bool) for dot in dots)
    distinct = sorted({dot.value for dot in dots}) if numeric else sorted({value_text(dot.value) for dot in dots})
    by_place = not numeric or len(distinct) <= _PLACES_MAX
    places = _places([str(value_text(value)) for value in distinct], frame) if by_place else {}
    logarithmic = not by_place and suits_logarithm([float(dot.value) for dot in dots])
    x = None if by_place else scale_for([float(dot.value) for dot in dots], frame.left + 6, frame.right, logarithmic)
    at = {id(dot): places[value_text(dot.value)] if x is None else x(float(dot.value)) for dot in dots}
    parts = [axes(frame, y, x, clipped(name, 40), metric)]
    labels = list(places.items())
    shown = max(4, 48 // max(1, min(len(labels), 8)))
    room = (frame.right - frame.left) / max(1, len(labels))
    widest = max((len(clipped(label, shown)) for label in places), default=0) * _CHARACTER + 6
    every = max(1, math.ceil(widest / room))
    parts += [
        text(place, frame.bottom + 16, clipped(label, shown), class_="tick middle") for label, place in labels[::every]
    ]
    parts += _medians(dots, at, y)
    crowded = len(dots) > _CROWD
    for index, dot in enumerate(sorted(dots, key=lambda dot: dot.is_best)):
        aside = _SPREAD * (index * 0.618034 % 1 - 0.5) if crowded and by_place and not dot.is_best else 0.0
        parts.append(_dot(dot, at[id(dot)] + aside, y, crowded))
    return drawing(width, height, parts, f"{metric} by {name}")


def _curve(line: Line, x: Scale, y: Scale, every: int, crowded: bool) -> str:
    kept = [*line.values[:-1:every], line.values[-1]]
    places = [(x(epoch), y(value)) for epoch, value in kept]
    muted = crowded and not line.is_near
    style = "line best" if line.is_best else "line muted" if muted else "line"
    last = line.values[-1][1]
    tip = title(f"{line.name}  {number_text(last)}  {line.description}")
    drawn = (
        element("polyline", points=points(places), stroke=None if muted else line.colour, class_=style)
        if len(places) > 1
        else ""
    )
    marks = places if len(places) == 1 or not crowded else places[-1:] if line.is_best else []
    radius = 3.5 if line.is_best else 2.0
    dots = "".join(element("circle", cx=cx, cy=cy, r=radius, fill=line.colour) for cx, cy in marks)
    return f"<g>{tip}{drawn}{dots}</g>"


def _epoch_ticks(frame: Frame, x: Scale) -> str:
    whole = dict.fromkeys(round(value) for value in x.ticks(8) if x.low <= round(value) <= x.high)
    return "".join(text(x(value), frame.bottom + 16, str(value), class_="tick middle") for value in whole)


def _places(labels: Sequence[str], frame: Frame) -> dict[str, float]:
    step = (frame.right - frame.left) / max(1, len(labels))
    return {label: frame.left + step * (index + 0.5) for index, label in enumerate(labels)}


def _medians(dots: Sequence[Dot], at: Mapping[int, float], y: Scale) -> list[str]:
    groups: dict[float, list[float]] = {}
    for dot in dots:
        groups.setdefault(at[id(dot)], []).append(dot.metric)
    if len(groups) > 12 or len(groups) == len(dots):
        return []
    middles = {place: y(median(values)) for place, values in groups.items()}
    return [
        element("line", x1=place - 12, x2=place + 12, y1=middle, y2=middle, class_="median")
        for place, middle in middles.items()
    ]


def _dot(dot: Dot, place: float, y: Scale, crowded: bool) -> str:
    tip = title(f"{number_text(dot.metric)}  {dot.description}")
    style = "dot best" if dot.is_best else "dot crowd" if crowded else "dot"
    return element(
        "circle", tip, cx=place, cy=y(dot.metric), r=5.0 if dot.is_best else 3.5, fill=dot.colour, class_=style
    )


def _spans_decades(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 1000
