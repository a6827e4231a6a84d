"""Workers that compute other bits than those before them are found out before they train anything."""

from collections.abc import Mapping
from typing import Any

from cerebro.errors import EngineError, StoreError
from cerebro.messages import WorkerJoined
from cerebro.storage.store import ExperimentFolder


def common_fingerprint(joined: list[WorkerJoined]) -> Mapping[str, Any]:
    """What the numerics of all workers depend on.

    Raises:
        EngineError: they differ.
    """
    first = joined[0].fingerprint
    for other in joined[1:]:
        if other.fingerprint != first:
            raise EngineError(
                f"workers {joined[0].worker} and {other.worker} compute different bits: "
                f"{_changes(first, other.fingerprint)}; use workers of one kind"
            )
    return first


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, Any], folder: ExperimentFolder) -> None:
    """Check that an experiment goes on with the numerics that it began with.

    Raises:
        StoreError: it does not, with what differs.
    """
    if dict(before) != dict(now):
        raise StoreError(
            f"experiment {folder.path.name!r} began on other numerics: {_changes(before, now)}. Its models would not "
            "be repeatable: go on where it began, or give it another name"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} is now {now.get(name)}" for name in names)
