"""Stage forks: models whose configs agree in their first epochs are trained once there (Hippo, PVLDB 15(5), 2022).

No choice changes a bit: which models meet is decided here, by their configs; whether they are one computation is seen
at each visit, by their configs and the bytes of their states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from cerebro.ids import canonical_json, digest
from cerebro.plan.cost import Profile
from cerebro.plan.workload import Chain, Pass
from cerebro.spec.stages import at_epoch, stage_starts


@dataclass(frozen=True, slots=True)
class Forking:
    """Which models make their first visits together, as far as they are the same there."""

    epochs: int = 0
    """In so many first epochs models may be the same."""
    passes: Mapping[str, Pass] = field(default_factory=dict[str, Pass])
    """What the plan knows of a training, by its name."""

    def chain(self, chain: Chain, profile: Profile, config: Mapping[str, Any], repeat: int = 0) -> Chain:
        """The chain of a model, which meets its like also where the plan did not know of it."""
        # What is not the same when it is repeated can stand for nothing else, nor can what depends on its company.
        if profile.impure_tensor is not None or chain.kernel:
            return chain
        names = (training_name(config, repeat, epoch) for epoch in range(1, self.epochs + 1))
        return replace(chain, passes=tuple(self.passes.get(name) or _pass(name, chain) for name in names))


def training_name(config: Mapping[str, Any], repeat: int, epoch: int) -> str:
    """Equal for models that have trained the same from the first epoch to the end of this one."""
    changes = list[tuple[int, dict[str, Any]]]()
    for start in stage_starts(config):
        present = at_epoch(config, start)
        if start <= epoch and (not changes or canonical_json(changes[-1][1]) != canonical_json(present)):
            changes.append((start, present))
    return digest([repeat, epoch, changes])[:16]


def _pass(name: str, chain: Chain) -> Pass:
    return Pass(chain.group, share=True) if chain.group else Pass(name, share=True, fuse=False)


def epochs_text(numbers: Mapping[int, int]) -> str:
    """By epoch how many trainings there are: `1-5 as 2 trainings, 6 as 4`."""
    parts = list[str]()
    for number, same in groupby(numbers, key=numbers.__getitem__):
        epochs = list(same)
        span = f"{epochs[0]}-{epochs[-1]}" if len(epochs) > 1 else str(epochs[0])
        noun = "" if parts else " training" if number == 1 else " trainings"
        parts.append(f"{span} as {number}{noun}")
    return ", ".join(parts)
