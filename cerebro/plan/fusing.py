"""Fused passes: which models make their visits together (horizontal fusion, HFTA, MLSys 2021). No choice changes a bit.

A group holds models of one architecture, batch size and order of batches; the scheduler lets those of a group that are
at the same place make their visit in one pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cerebro.ids import model_index
from cerebro.plan.cost import Profile, Together
from cerebro.plan.workload import Chain


@dataclass(frozen=True, slots=True)
class Fused:
    """How models of one signature are trained in passes."""

    passes: int
    """So many groups share them."""
    together: Together


@dataclass(frozen=True, slots=True)
class Fusing:
    """The groups of a plan."""

    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """The group of each model that the plan knows."""
    by_signature: Mapping[str, Fused] = field(default_factory=dict[str, Fused])

    def chain(self, chain: Chain, profile: Profile, repeat: int = 0) -> Chain:
        """The chain of a model, in its group and at what a visit costs there; a new model joins one of its kind."""
        fused = self.by_signature.get(profile.signature)
        if fused is None:
            return chain
        known = self.groups.get(chain.model)
        group = known or group_name(profile.signature, repeat, model_index(chain.model) % fused.passes)
        train, valid, own = fused.together.train_gain, fused.together.valid_gain, profile.unit_seconds
        return replace(
            chain,
            group=group,
            train_seconds=tuple(_in_a_pass(seconds, own, train) for seconds in chain.train_seconds),
            valid_seconds=tuple(_in_a_pass(seconds, own, valid) for seconds in chain.valid_seconds),
        )


def _in_a_pass(seconds: float, own: float, gain: float) -> float:
    """A model's share of a pass; of what a unit takes beside its batches nothing is gained."""
    return (seconds - own) / gain + own


def group_name(signature: str, repeat: int, number: int) -> str:
    """What a group is called: models of other repeats see other batches."""
    return f"{signature[:16]}-{repeat}-{number}"
