"""What differs between two models, and whether their results may be compared at all."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cerebro.session.declaration import differences
from cerebro.session.lineage import ModelLineage

_DECIDING = ("data", "metric", "mode")
"""What must be the same for a comparison to mean anything."""
_PARTS = ("data", "metric", "mode", "epochs", "code", "seed", "order", "independent", "device", "streams")


@dataclass(frozen=True, slots=True)
class Different:
    """One thing that differs: a path such as `config.lr`, and its two values."""

    what: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two models."""

    first: str
    second: str
    same: tuple[str, ...]
    """The parts in which they are equal."""
    different: tuple[Different, ...]
    metrics: tuple[Different, ...]
    """The values of the metrics of both; empty where they must not be compared."""
    obstacles: tuple[str, ...]
    """Why they must not be compared; empty where they may be."""

    @property
    def comparable(self) -> bool:
        """Whether the values of their metrics say which is better."""
        return not self.obstacles

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "comparable": self.comparable}

    def __str__(self) -> str:
        lines = [f"{self.first} and {self.second}: {self._verdict()}"]
        lines += [f"  same       {', '.join(self.same)}"] if self.same else []
        rows = [(one.what, _short(one.first), _short(one.second)) for one in (*self.different, *self.metrics)]
        width, left = (max((len(row[index]) for row in rows), default=0) for index in (0, 1))
        return "\n".join([*lines, *(f"  {what:<{width}}  {one:<{left}}  {other}" for what, one, other in rows)])

    def _verdict(self) -> str:
        return "comparable" if self.comparable else f"NOT comparable: {'; '.join(self.obstacles)}"


def diff(one: ModelLineage, other: ModelLineage) -> Diff:
    """What differs between two models, of one experiment or of two."""
    found = list(_compared(one, other))
    different = tuple(each for _, differing in found for each in differing)
    obstacles = tuple(
        f"{part}: {_short(one.declaration.get(part))} is not {_short(other.declaration.get(part))}"
        for part in _DECIDING
        if one.declaration.get(part) != other.declaration.get(part)
    )
    same = tuple(part for part, differing in found if not differing)
    metrics = () if obstacles else tuple(_metrics(one, other))
    first, second = (f"{each.experiment}/{each.model}" for each in (one, other))
    return Diff(first, second, same, different, metrics, obstacles)


def _compared(one: ModelLineage, other: ModelLineage) -> Iterator[tuple[str, list[Different]]]:
    yield "config", _between("config", one.config, other.config)
    for part in _PARTS:
        yield part, _between(part, one.declaration.get(part), other.declaration.get(part))
    yield "environment", _between("environment", one.fingerprint, other.fingerprint)
    yield "epochs completed", _between("epochs completed", one.epochs, other.epochs)
    yield "state", _between("state", one.state_digest, other.state_digest)


def _between(name: str, one: Any, other: Any) -> list[Different]:
    return [Different(path, first, second) for path, first, second in differences(one, other, name)]


def _metrics(one: ModelLineage, other: ModelLineage) -> Iterator[Different]:
    for split in ("valid", "train"):
        ours, theirs = one.metrics.get(split, {}), other.metrics.get(split, {})
        for name in dict.fromkeys([*ours, *theirs]):
            yield Different(f"{split}.{name}", ours.get(name), theirs.get(name))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:12] + "…"
