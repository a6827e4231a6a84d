"""Data that grow: each state of a dataset is a cycle, and an experiment has a folder of its own for each that it saw.

What was trained in an earlier cycle stays as it is, to be read, loaded and replayed under its name. The folder of the
first cycle has the experiment's name, that of a later one `NAME-cycle-2`. (Nautilus, SIGMOD 2022, section 2, calls them
the labelling cycles of a model selection.)
"""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

from cerebro.errors import SpecError, StoreError
from cerebro.ids import canonical_json
from cerebro.plan.program import Ancestor, Member
from cerebro.session.members import members_in
from cerebro.storage.dataset import Dataset
from cerebro.storage.store import ExperimentFolder, Store

Models = Literal["restart", "continue"]
"""What becomes of models when data have grown: trained anew on all of them, or on from where they were."""


def name_now(name: str, dataset: Dataset, store: Store, cycle: int | None = None) -> str:
    """What an experiment is called in a cycle of its dataset, by default the present one.

    Raises:
        StoreError: there is no such cycle.
    """
    digests = [*dataset.earlier, dataset.digest]
    if cycle is not None and not 0 <= cycle < len(digests):
        raise StoreError(f"cycle {cycle}: {dataset.path} has the cycles 0 to {dataset.cycle}")
    first = _first_cycle(store.experiment(name), digests)
    number = dataset.cycle if cycle is None else cycle
    return name if first is None or first == number else f"{name}-cycle-{number}"


def continues(
    folder: ExperimentFolder, name: str, dataset: Dataset, store: Store, models: Models | None
) -> Mapping[str, Any] | None:
    """What the models of an experiment go on from: of one that exists what it has, of a new one as `models` says.

    Raises:
        SpecError: it was begun otherwise, or there is nothing to go on from.
    """
    if models not in (None, "restart", "continue"):
        raise SpecError(f"models: {models!r} is not one of restart, continue")
    if folder.exists:
        with closing(folder.reader()) as reader:
            found = reader.experiment()["spec"].get("continues")
        if models is not None and (models == "continue") != (found is not None):
            was = "restart" if found is None else "continue"
            raise SpecError(f"models: {models!r} was asked for, and {folder.path.name!r} was begun with {was!r}")
        return found
    if models != "continue":
        return None
    for cycle in reversed(range(dataset.cycle)):
        before = store.experiment(name_now(name, dataset, store, cycle))
        if before.exists and before.path != folder.path:
            return _states(before)
    raise SpecError("models: 'continue' needs an earlier cycle of this experiment: fit it, append, and fit again")


def with_ancestors(members: Mapping[str, Member], continued: Mapping[str, Any] | None) -> dict[str, Member]:
    """The members, each with the state that one of equal config and repeat had in an earlier cycle, if any had."""
    if continued is None:
        return dict(members)
    return {model: _with_ancestor(member, continued) for model, member in members.items()}


def _with_ancestor(member: Member, continued: Mapping[str, Any]) -> Member:
    found = continued["states"].get(_key(member))
    if found is None:
        return member
    ancestor = Ancestor(found["model"], found["state_digest"], "keep", 1, experiment=continued["experiment"])
    return Member(member.config, member.repeat, ancestor)


def inherit(members: Mapping[str, Member], folder: ExperimentFolder) -> list[dict[str, Any]]:
    """Copy the states that models go on from into the folder of their experiment; gives their rows of `checkpoints`.

    Raises:
        StoreError: one is not there any more, or is damaged.
    """
    rows, store = list[dict[str, Any]](), Store(folder.path.parent)
    for model, member in members.items():
        if member.ancestor is None or not member.ancestor.experiment:
            continue
        found = member.ancestor.state_digest
        state = store.experiment(member.ancestor.experiment).checkpoints.read(found)
        folder.checkpoints.write_all({found: memoryview(state)})
        size, now = len(state), time.time()
        rows.append({"model": model, "epoch": 1, "position": -1, "state_digest": found, "bytes": size, "ts": now})
    return rows


def inherited_state(member: Member, folder: ExperimentFolder) -> bytes | None:
    """The state that a model goes on from, in the folder of the earlier cycle; None if it goes on from none.

    Raises:
        StoreError: it is not there any more, or is damaged.
    """
    ancestor = member.ancestor
    if ancestor is None or not ancestor.experiment:
        return None
    return Store(folder.path.parent).experiment(ancestor.experiment).checkpoints.read(ancestor.state_digest)


def _first_cycle(folder: ExperimentFolder, digests: list[str]) -> int | None:
    """The cycle that the experiment of this name itself saw; None where it has not begun, or on other data."""
    if not folder.exists:
        return None
    with closing(folder.reader()) as reader:
        data = reader.experiment()["spec"]["data"]
    return digests.index(data) if data in digests else None


def _states(folder: ExperimentFolder) -> dict[str, Any]:
    with closing(folder.reader()) as reader:
        newest, states = reader.last_checkpoints(), dict[str, Any]()
        for model, member in members_in(reader).items():
            if model in newest:
                found = {"model": model, "state_digest": newest[model]["state_digest"]}
                states.setdefault(_key(member), found)
    if not states:
        raise StoreError(f"no model of {folder.path.name!r} was trained: there is nothing to continue")
    return {"experiment": folder.path.name, "states": states}


def _key(member: Member) -> str:
    return canonical_json([member.config, member.repeat])
