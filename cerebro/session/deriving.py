"""What workers do about derived columns in a run: chosen by cost, or as the caller says."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cerebro.errors import SpecError
from cerebro.optimizer.materialize import Choice, Place, Prefix, Room, choose
from cerebro.plan.cost import Profile
from cerebro.plan.features import MODES, Features
from cerebro.plan.logical import Scan
from cerebro.plan.physical import InBatch, Materialize

_FREE_SHARE = 0.5
"""The share of a disk's free bytes that is taken at most."""


@dataclass(frozen=True, slots=True)
class Deriving:
    """How derived columns are come by, what that costs, and how it reads in a plan."""

    features: Features
    profiles: Mapping[str, Profile]
    """The profiles, with what the columns cost in them."""
    nodes: tuple[Materialize | InBatch, ...] = ()
    memory_bytes: int = 0
    """What each worker keeps of them in memory."""


def as_features(value: Features | str, folder: Path) -> Features:
    """What the caller says of derived columns; `folder` is where they would be stored.

    Raises:
        SpecError: not one of the modes.
    """
    features = value if isinstance(value, Features) else Features(value)  # type: ignore[arg-type]  # checked next
    if features.mode not in MODES:
        raise SpecError(f"features: {features.mode!r} is not one of {', '.join(MODES)}")
    return replace(features, folder=features.folder or str(folder.absolute()))


def derive(
    profiles: Mapping[str, Profile], epochs: Mapping[str, int], scan: Scan, features: Features, workers: int
) -> Deriving:
    """What to do about the derived columns of models that are to be trained for so many `epochs` each."""
    prefixes = _prefixes(profiles, epochs)
    in_batch = _in_batch(profiles)
    if not prefixes:
        return Deriving(features, profiles, in_batch)
    rows = _rows(scan)
    stores = features.mode in ("auto", "materialize")
    room = Room(_budget_bytes(features) if stores else 0, features.memory_bytes, workers)
    choices = choose(prefixes, rows, room, always=features.mode == "materialize")
    if features.mode == "recompute":
        choices = [replace(choice, seconds=choice.recompute_seconds) for choice in choices]
    stored = tuple((choice.prefix.key, *place) for choice in choices for place in choice.stored)
    return Deriving(
        replace(features, stored=stored, since=time.time()),
        _with_costs(profiles, choices, sum(rows.values())),
        (*(_node(choice, rows, features) for choice in choices), *in_batch),
        _kept_bytes(choices, sum(rows.values()), features),
    )


def _prefixes(profiles: Mapping[str, Profile], epochs: Mapping[str, int]) -> list[Prefix]:
    """What models begin with, those with the same key together."""
    found = dict[str, Prefix]()
    for model, profile in profiles.items():
        for part in profile.derived:
            if part.note or not epochs[model]:
                continue
            before = found.get(part.key) or Prefix(part.key, part.name, 0, 0, part.row_seconds, part.row_bytes)
            found[part.key] = replace(before, models=before.models + 1, epochs=before.epochs + epochs[model])
    return list(found.values())


def _in_batch(profiles: Mapping[str, Profile]) -> tuple[InBatch, ...]:
    found = Counter((part.name, part.note) for profile in profiles.values() for part in profile.derived if part.note)
    return tuple(InBatch(name, models, reason) for (name, reason), models in found.items())


def _rows(scan: Scan) -> dict[Place, int]:
    train = {("train", index): rows for index, rows in enumerate(scan.train_rows)}
    return train | {("valid", index): rows for index, rows in enumerate(scan.valid_rows)}


def _budget_bytes(features: Features) -> float:
    """What may be stored: the budget, and no more than a part of what is free."""
    folder = next(parent for parent in (Path(features.folder), *Path(features.folder).parents) if parent.is_dir())
    held = sum(file.stat().st_size for file in os.scandir(folder)) if str(folder) == features.folder else 0
    return min(features.budget_bytes, held + shutil.disk_usage(folder).free * _FREE_SHARE)


def _with_costs(profiles: Mapping[str, Profile], choices: Sequence[Choice], rows: int) -> dict[str, Profile]:
    """The profiles with the columns' seconds spread evenly over all visits that use them."""
    row_seconds = {choice.prefix.key: choice.seconds / (choice.prefix.epochs * rows) for choice in choices}
    return {
        model: replace(profile, derived_row_seconds=sum(row_seconds.get(part.key, 0.0) for part in profile.derived))
        for model, profile in profiles.items()
    }


def _kept_bytes(choices: Sequence[Choice], rows: int, features: Features) -> int:
    """What is shared in memory: what is not stored, as far as there is room for it."""
    if features.mode == "recompute":
        return 0
    return round(min(features.memory_bytes, sum(c.prefix.row_bytes * rows - c.stored_bytes for c in choices)))


def _node(choice: Choice, rows: Mapping[Place, int], features: Features) -> Materialize:
    return Materialize(
        name=choice.prefix.name,
        models=choice.prefix.models,
        rounds=round(choice.prefix.epochs),
        row_bytes=choice.prefix.row_bytes,
        stored_bytes=choice.stored_bytes,
        stored_share=sum(rows[place] for place in choice.stored) / sum(rows.values()),
        otherwise="Recompute" if features.mode == "recompute" else "Share",
        seconds=choice.seconds,
        recompute_seconds=choice.recompute_seconds,
    )
