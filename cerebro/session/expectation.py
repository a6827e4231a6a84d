"""What a search will probably come to: its procedure, played through with made-up results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.control.steering import Steering
from cerebro.ids import digest
from cerebro.messages import Ruling
from cerebro.operators.hop import Goal
from cerebro.optimizer.given import Work
from cerebro.plan.cost import Profile
from cerebro.plan.workload import Done
from cerebro.session.declaration import Declaration
from cerebro.session.steering import likest

_RESULTS_MAX = 100_000
"""A search of more results is planned by its beginning."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """A model that will probably be trained."""

    config: Mapping[str, Any]
    start: int
    """The epochs that it has behind it, as a clone."""
    repeat: int


def expected_work(declaration: Declaration, profiles: Mapping[str, Profile]) -> Work:
    """The models that a search is expected to train, and how far.

    Which models go on depends on results; how many do, for most procedures, does not.
    """
    models, goals = _played(declaration.steering())
    failed = declaration.members.keys() - profiles.keys()
    known = {model: declaration.members[model].config for model in profiles}
    configs = {model: expected.config for model, expected in models.items() if model not in failed}
    return Work(
        configs,
        {model: profiles[model if model in profiles else likest(configs[model], known)] for model in configs},
        {model: Goal(goals[model]) for model in configs},
        {model: Done(models[model].start + 1) for model in configs if models[model].start},
        {model: models[model].repeat for model in configs if models[model].repeat},
    )


def _played(steering: Steering) -> tuple[dict[str, _Expected], dict[str, int]]:
    """Every model, and the last epoch that it is to reach."""
    models, goals = dict[str, _Expected](), dict[str, int]()
    rulings, results = steering.begin(), 0
    while rulings and results < _RESULTS_MAX:
        for ruling in rulings:
            if ruling.model is None:
                continue
            if ruling.member is not None:
                ancestor = ruling.member["ancestor"] or {"at": 0}
                models[ruling.model] = _Expected(ruling.member["config"], ancestor["at"], ruling.member["repeat"])
            goals[ruling.model] = max(goals.get(ruling.model, 0), ruling.until or 0)
        results += len(rulings)
        rulings = [*_offered(rulings, steering), *steering.advance()]
    return models, goals


def _offered(rulings: Sequence[Ruling], steering: Steering) -> list[Ruling]:
    """Let the models that go on come to where they are to pause."""
    found = list[Ruling]()
    for ruling in rulings:
        if ruling.model and ruling.until and ruling.kind in ("added", "cloned", "resumed"):
            for epoch in range(ruling.epoch + 1, ruling.until + 1):
                found += steering.offer(ruling.model, epoch, _made_up(ruling.model, epoch))
    return found


def _made_up(model: str, epoch: int) -> float:
    return int(digest([model, epoch])[:12], 16) / (1 << 48)
