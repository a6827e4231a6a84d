"""Do passes pay? It is measured while a run goes on: a pilot sees a few batches, and machines change meanwhile.

Both ways give the same bits, so that a run may change its mind at any visit.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from cerebro.messages import UnitFinished

Way = Literal["together", "alone"]

_WARM = 2
"""The first visits on a worker are slower, and do not count."""
_ENOUGH, _NEWEST = 3, 9
"""So many visits say something, and so many are looked at."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How models of one kind go on, and what visits were measured to cost, over what one alone was to cost."""

    kind: str
    way: Way
    together: float
    alone: float | None
    """None: that is to be found out."""


@dataclass(slots=True)
class _Visit:
    """A visit that is being told of, unit by unit."""

    place: tuple[str, int, int]
    """The kind of its models, the epoch and the position: a pass whose last units failed is never told to its end."""
    units: int = 0
    seconds: float = 0.0
    planned: float = 0.0


@dataclass
class Drift:
    """Measures the train visits of models of some kinds, which go together at first.

    Where a pass costs more than its models were to cost one by one, they go alone. If that costs still more, it was
    the machine: they go together again. Each is tried once.
    """

    kinds: Collection[str]
    _open: dict[int, _Visit] = field(default_factory=dict[int, _Visit])
    """By worker."""
    _visits: Counter[tuple[str, Way, int]] = field(default_factory=Counter[tuple[str, Way, int]])
    _ratios: dict[tuple[str, Way], deque[float]] = field(
        default_factory=lambda: defaultdict[tuple[str, Way], deque[float]](lambda: deque(maxlen=_NEWEST))
    )
    _tried: set[str] = field(default_factory=set[str])
    """The kinds that go alone, to see what that costs."""
    _settled: set[str] = field(default_factory=set[str])

    def heard(self, event: UnitFinished, kind: str, alone_seconds: float) -> Verdict | None:
        """Take in the end of a train unit, which alone was to take so long; gives what follows from it, if anything."""
        place = kind, event.unit.epoch, event.unit.position
        visit = self._open.pop(event.worker, None)
        if visit is None or visit.place != place:
            visit = _Visit(place)
        visit.units, visit.seconds = visit.units + 1, visit.seconds + event.seconds
        visit.planned += alone_seconds
        if event.more:
            self._open[event.worker] = visit
            return None
        if kind not in self.kinds or kind in self._settled:
            return None
        way: Way = "together" if visit.units > 1 else "alone"
        self._visits[kind, way, event.worker] += 1
        if self._visits[kind, way, event.worker] > _WARM:
            self._ratios[kind, way].append(visit.seconds / visit.planned)
        return self._verdict(kind)

    def _verdict(self, kind: str) -> Verdict | None:
        together, alone = (self._median(kind, way) for way in ("together", "alone"))
        if together is None:
            return None
        if alone is None:
            if kind in self._tried or together <= 1:
                return None
            self._tried.add(kind)
            return Verdict(kind, "alone", together, None)
        if kind not in self._tried and alone >= together:
            return None
        self._settled.add(kind)
        return Verdict(kind, "alone" if alone < together else "together", together, alone)

    def _median(self, kind: str, way: Way) -> float | None:
        ratios = self._ratios[kind, way]
        return median(ratios) if len(ratios) >= _ENOUGH else None
