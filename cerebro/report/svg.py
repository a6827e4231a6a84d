"""Charts drawn as SVG text: escaped elements, scales with round ticks, and axes.

Colours of text and lines come from the page's style sheet, so that one drawing suits light and dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from cerebro.report.wording import number_text

_PALETTE = (
    "#3b82f6",
    "#f59e0b",
    "#10b981",
    "#ec4899",
    "#8b5cf6",
    "#ef4444",
    "#06b6d4",
    "#84cc16",
    "#a16207",
    "#64748b",
)
_GOLDEN_DEGREES = 137.508


def colour(index: int, count: int) -> str:
    """The colour of model `index` of `count`: from a palette, or for many, spread over the circle of hues."""
    if count <= len(_PALETTE):
        return _PALETTE[index]
    return f"hsl({index * _GOLDEN_DEGREES % 360:.0f},{(65, 45, 80)[index % 3]}%,{(52, 60, 46)[index // 3 % 3]}%)"


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """One element; `content` is markup, attributes are escaped. `class_` is `class`, `stroke_width` `stroke-width`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    given = "".join(f' {names[name]}="{_attribute(value)}"' for name, value in attributes.items() if value is not None)
    return f"<{tag}{given}>{content}</{tag}>" if content else f"<{tag}{given}/>"


def title(text: str) -> str:
    """A tooltip."""
    return f"<title>{escape(text)}</title>"


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """A label, escaped."""
    return element("text", escape(content), x=x, y=y, **attributes)


def drawing(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A whole drawing that scales with its column; `label` is what a screen reader says."""
    box = f"0 0 {_attribute(width)} {_attribute(height)}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def points(pairs: Iterable[tuple[float, float]]) -> str:
    """The points of a polyline."""
    return " ".join(f"{_attribute(x)},{_attribute(y)}" for x, y in pairs)


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value))


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale: powers of ten, or multiples of 1, 2 or 5 of one."""
        if self.logarithmic:
            return _powers(self.low, self.high, count)
        return _multiples(self.low, self.high, count)


def scale_for(values: Iterable[float], start: float, end: float, logarithmic: bool = False, pad: float = 0.05) -> Scale:
    """A scale that holds all `values`, with a margin of `pad` on both sides."""
    seen = list(values) or [0.0, 1.0]
    low, high = min(seen), max(seen)
    if logarithmic:
        margin = (high / low) ** pad if high > low else 2.0
        return Scale(low / margin, high * margin, start, end, logarithmic=True)
    margin = (high - low) * pad if high > low else abs(high) * 0.1 or 1.0
    return Scale(low - margin, high + margin, start, end)


def suits_logarithm(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic scale: all above 0, over a factor of 20."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 20


def tick_text(value: float) -> str:
    """`0.001`, `5`, `1e-05`, `20,000`."""
    return number_text(value) if abs(value) >= 1e4 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Frame:
    """The rectangle of a chart within its drawing."""

    left: float
    top: float
    right: float
    bottom: float


def axes(frame: Frame, y: Scale, x: Scale | None = None, x_label: str = "", y_label: str = "") -> str:
    """Grid lines with their numbers, and the names of the axes."""
    parts: list[str] = []
    for value in y.ticks(5):
        at = y(value)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=at, y2=at, class_="grid"))
        parts.append(text(frame.left - 6, at + 4, tick_text(value), class_="tick end"))
    for value in x.ticks(6) if x is not None else ():
        parts.append(text(x(value) if x else 0, frame.bottom + 16, tick_text(value), class_="tick middle"))
    parts.append(element("line", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom, class_="axis"))
    if x_label:
        parts.append(text((frame.left + frame.right) / 2, frame.bottom + 32, x_label, class_="label middle"))
    if y_label:
        parts.append(text(frame.left, frame.top - 8, y_label, class_="label"))
    return "".join(parts)


def _powers(low: float, high: float, count: int) -> list[float]:
    steps = [float(f"{digit}e{power}") for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for digit in (1, 2, 5)]  # fmt: skip
    fine = [value for value in steps if low <= value <= high]
    tens = [value for value in fine if f"{value:e}".startswith("1.0")]
    chosen = fine if len(fine) <= count else tens or fine
    return chosen[:: max(1, math.ceil(len(chosen) / count))]


def _multiples(low: float, high: float, count: int) -> list[float]:
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low] if math.isfinite(low) else []
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]
