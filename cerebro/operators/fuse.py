"""Fused passes as a physical operator: the chains of a hop, with those that may go together in groups."""

from collections.abc import Mapping
from dataclasses import replace

from cerebro.plan.cost import Profile
from cerebro.plan.fusing import Fusing
from cerebro.plan.physical import Hop


def fused_hop(hop: Hop, fusing: Fusing, profiles: Mapping[str, Profile], repeats: Mapping[str, int]) -> Hop:
    """The same hop with the groups of `fusing`, and at what visits cost in them."""
    chains = tuple(
        fusing.chain(chain, profiles[chain.model], repeats.get(chain.model, 0)) for chain in hop.workload.chains
    )
    groups = tuple(
        replace(group, passes=len({fusing.groups[model] for model in group.configs if model in fusing.groups}))
        for group in hop.groups
    )
    beginning = hop.workload.beginning_seconds + sum(f.together.first_seconds for f in fusing.by_signature.values())
    workload = replace(hop.workload, chains=chains, beginning_seconds=beginning)
    return replace(hop, groups=groups, workload=workload, fusing=fusing)
