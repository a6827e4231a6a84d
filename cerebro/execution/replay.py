"""Running recorded units again and comparing what they give."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cerebro.errors import InternalError
from cerebro.execution.engine import Engine
from cerebro.ids import canonical_json, digest_bytes
from cerebro.messages import Launch, Unit, UnitFailed, UnitFinished, WorkerJoined
from cerebro.storage.catalog import UnitRow


@dataclass(frozen=True, slots=True)
class Difference:
    """The first unit that did not give what was recorded."""

    unit: Unit
    what: str
    recorded: str | None
    found: str | None
    numerics: str
    """What is different about this machine, if anything."""

    def __str__(self) -> str:
        unit = self.unit
        place = f"epoch {unit.epoch}, {unit.kind} visit {unit.position} (shard {unit.shard})"
        return f"differs first in {place}: {self.what} was {self.recorded}, now {self.found}. {self.numerics}"


@dataclass(frozen=True, slots=True)
class Again:
    """A launch to be made again: its units, how they were computed, and the row of each that ended well."""

    units: tuple[Unit, ...]
    kernel: str
    rows: tuple[UnitRow | None, ...]


def replay_units(
    engine: Engine,
    launches: Sequence[Again],
    fingerprint: Mapping[str, Any],
    progress: Callable[[int, int], None],
    keep: Callable[[str, memoryview], None] = lambda digest, state: None,
) -> tuple[int, Difference | None]:
    """Make launches again in order on an open engine; gives how many were made, and the first difference.

    `keep` is shown each state, with its digest.
    """
    joined = engine.wait()
    assert isinstance(joined, WorkerJoined)
    numerics = _numerics(fingerprint, joined.fingerprint)
    partials: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for count, again in enumerate(launches, start=1):
        earlier = [partials.setdefault((unit.model, unit.kind, unit.epoch), []) for unit in again.units]
        engine.submit(
            Launch(again.units[0], joined.worker, again.units[1:], again.kernel), *(tuple(known) for known in earlier)
        )
        for unit, row, known in zip(again.units, again.rows, earlier, strict=True):
            event = engine.wait()
            if not isinstance(event, UnitFinished | UnitFailed):
                raise InternalError(f"not the end of a unit: {event}")
            if row is None:
                continue
            if isinstance(event, UnitFailed):
                return count, Difference(unit, "it", "finished", event.error, numerics)
            difference = _difference(engine, row, event, numerics, keep)
            if difference is not None:
                return count, difference
            known.append(dict(event.partials))
        progress(count, len(launches))
    return len(launches), None


def _difference(
    engine: Engine, row: UnitRow, event: UnitFinished, numerics: str, keep: Callable[[str, memoryview], None]
) -> Difference | None:
    if event.kernel != row.kernel:
        return Difference(row.unit, "the kernel", row.kernel or "the reference", event.kernel, numerics)
    if row.unit.kind == "train":
        with closing(_Released(engine.state(row.unit.model))) as handle:
            found = digest_bytes(handle.view())
            keep(found, handle.view())
        if found != row.state_digest:
            return Difference(row.unit, "the state", row.state_digest, found, numerics)
    recorded, now = canonical_json(row.partials), canonical_json(event.partials)
    return Difference(row.unit, "a metric", recorded, now, numerics) if recorded != now else None


class _Released:
    """A state handle that `closing` releases."""

    def __init__(self, handle: Any) -> None:
        self.view, self.close = handle.view, handle.release


def _numerics(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    if not names:
        return "The numerics of this machine are those of the recorded run"
    return "Other numerics: " + ", ".join(f"{name} {before.get(name)} is now {now.get(name)}" for name in names)
