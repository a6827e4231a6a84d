"""Fused passes as a physical operator: the chains of a hop, with those that may go together in groups."""

from collections.abc import Mapping
from dataclasses import replace

from cerebro.plan.cost import Profile, Rewrite
from cerebro.plan.fusing import Fusing
from cerebro.plan.physical import Hop, TrainGroup


def fused_hop(hop: Hop, fusing: Fusing, repeats: Mapping[str, int]) -> Hop:
    """The same hop with the groups of `fusing`, and at what visits cost in them."""
    profiles = {model: group.profile for group in hop.groups for model in group.configs}
    chains = tuple(
        fusing.chain(chain, profiles[chain.model], repeats.get(chain.model, 0)) for chain in hop.workload.chains
    )
    groups = tuple(_in_passes(group, fusing) for group in hop.groups)
    beginning = hop.workload.beginning_seconds + sum(_more_to_begin(g, hop.workload.workers) for g in groups)
    workload = replace(hop.workload, chains=chains, beginning_seconds=beginning)
    return replace(hop, groups=groups, workload=workload, fusing=fusing)


def _more_to_begin(group: TrainGroup, workers: int) -> float:
    """What each worker takes once for the passes of a group, and not for each of its models.

    Where there is a worker for each pass it stays there; else all come to all workers.
    """
    if group.fused is None:
        return 0.0
    passes = 1 if group.passes <= workers else group.passes
    return passes * group.fused.first_seconds - len(group.configs) * group.profile.noting_seconds


def rewritten_hop(
    hop: Hop, rewritten: Mapping[str, Rewrite], profiles: Mapping[str, Profile], repeats: Mapping[str, int]
) -> Hop:
    """The same hop with the models of these signatures, which go alone, computed so."""
    fusing = replace(hop.fusing, rewritten=rewritten)
    chains = tuple(
        fusing.chain(chain, profiles[chain.model], repeats.get(chain.model, 0))
        if profiles[chain.model].signature in rewritten
        else chain
        for chain in hop.workload.chains
    )
    groups = tuple(
        replace(group, kernel=rewritten[s].name) if (s := group.profile.signature) in rewritten else group
        for group in hop.groups
    )
    return replace(hop, groups=groups, workload=replace(hop.workload, chains=chains), fusing=fusing)


def _in_passes(group: TrainGroup, fusing: Fusing) -> TrainGroup:
    passes = len({fusing.groups[model] for model in group.configs if model in fusing.groups})
    return replace(group, passes=passes, fused=fusing.by_signature.get(group.profile.signature) if passes else None)
