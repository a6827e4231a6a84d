"""Fused passes: which models make their visits together (horizontal fusion, HFTA, MLSys 2021).

A group holds models of one architecture, batch size and order of batches; the scheduler lets those of a group that are
at the same place make their visit in one pass. None changes a bit but those that are stacked, which `exact=False`
allows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.ids import model_index
from cerebro.plan.cost import Profile, Rewrite, Together
from cerebro.plan.kernels import STACKED
from cerebro.plan.workload import Chain, PassGain


@dataclass(frozen=True, slots=True)
class Fused:
    """How models of one signature are trained in passes."""

    passes: int
    """So many groups share them."""
    together: Together
    is_stacked: bool = False
    """Whether by kernels that may give other bits than each would have alone."""

    @property
    def train_gain(self) -> float:
        """How many times as fast a training visit of all is."""
        return self.together.stacked_train_gain if self.is_stacked else self.together.train_gain

    @property
    def valid_gain(self) -> float:
        """The same of a validation visit."""
        return self.together.stacked_valid_gain if self.is_stacked else self.together.valid_gain

    @property
    def first_seconds(self) -> float:
        """What the first visits of a pass on a worker take beside their batches."""
        return self.together.stacked_first_seconds if self.is_stacked else self.together.first_seconds

    def __str__(self) -> str:
        deviates = f", deviation {self.together.deviation:.0e}" if self.is_stacked else ""
        return f"{self.train_gain:.1f} × as fast{deviates}"


@dataclass(frozen=True, slots=True)
class Fusing:
    """The groups of a plan."""

    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """The group of each model that the plan knows."""
    by_signature: Mapping[str, Fused] = field(default_factory=dict[str, Fused])
    rewritten: Mapping[str, Rewrite] = field(default_factory=dict[str, Rewrite])
    """How models of other signatures are computed, where that is not as the reference."""

    def chain(self, chain: Chain, profile: Profile, repeat: int = 0) -> Chain:
        """The chain of a model, in its group and at what a visit costs there; a new model joins one of its kind."""
        fused = self.by_signature.get(profile.signature)
        if fused is None:
            return self._rewritten(chain, profile)
        known = self.groups.get(chain.model)
        group = known or group_name(profile.signature, repeat, model_index(chain.model) % fused.passes)
        kernel, own = STACKED if fused.is_stacked else "", profile.unit_seconds
        models = max(2, fused.together.models)
        train, valid = profile.train_gain(fused.train_gain, models), profile.valid_gain(fused.valid_gain, models)
        pass_gain = PassGain(models, train, valid, own)
        return replace(_sped_up(chain, own, train, valid), group=group, pass_gain=pass_gain, kernel=kernel)

    def without(self, signatures: Collection[str]) -> "Fusing":
        """The same, with the models of these signatures by themselves."""
        return replace(self, by_signature={s: f for s, f in self.by_signature.items() if s not in signatures})

    def inexact(self, model: str, profile: Profile) -> dict[str, Any] | None:
        """For the log, of a model that may get other bits than the reference gives: the kernel, gain and deviation."""
        fused, rewrite = self.by_signature.get(profile.signature), self.rewritten.get(profile.signature)
        if fused is not None and fused.is_stacked:
            rewrite = Rewrite(STACKED, fused.train_gain, fused.together.deviation)
        if rewrite is None:
            return None
        return {"model": model, "kernel": rewrite.name, "gain": rewrite.gain, "deviation": rewrite.deviation}

    def _rewritten(self, chain: Chain, profile: Profile) -> Chain:
        rewrite = self.rewritten.get(profile.signature)
        if rewrite is None:
            return chain
        return replace(_sped_up(chain, profile.unit_seconds, rewrite.gain, rewrite.gain), kernel=rewrite.name)


def _sped_up(chain: Chain, own: float, train: float, valid: float) -> Chain:
    return replace(
        chain,
        train_seconds=tuple(_gained(seconds, own, train) for seconds in chain.train_seconds),
        valid_seconds=tuple(_gained(seconds, own, valid) for seconds in chain.valid_seconds),
    )


def _gained(seconds: float, own: float, gain: float) -> float:
    """A model's share of a pass, or its own visit; of what a unit takes beside its batches nothing is gained."""
    return (seconds - own) / gain + own


def group_name(signature: str, repeat: int, number: int) -> str:
    """What a group is called: models of other repeats see other batches."""
    return f"{signature[:16]}-{repeat}-{number}"
