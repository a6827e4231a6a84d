"""Stage forks as a physical operator: the chains of a hop, with those that begin alike in common passes."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from cerebro.plan.cost import Profile
from cerebro.plan.forking import Forking
from cerebro.plan.fusing import Fusing
from cerebro.plan.physical import Hop, StageFork
from cerebro.plan.workload import Chain, Done

_FRESH = Done()


def forked_hop(
    hop: Hop,
    forking: Forking,
    fusing: Fusing,
    profiles: Mapping[str, Profile],
    configs: Mapping[str, Mapping[str, Any]],
    repeats: Mapping[str, int],
) -> Hop:
    """The same hop with the common passes of `forking`; `fusing` says which go together where they are different."""

    def forked(chain: Chain) -> Chain:
        model = chain.model
        together = replace(chain, group=fusing.groups.get(model, chain.group))
        return forking.chain(together, profiles[model], configs[model], repeats.get(model, 0))

    workload = replace(hop.workload, chains=tuple(map(forked, hop.workload.chains)))
    return replace(hop, workload=workload, fusing=fusing, forking=forking)


def told(before: Hop, after: Hop, models: Collection[str], trainings: Mapping[int, int]) -> StageFork:
    """What a fork comes to for `models`, of which so many trainings are made in each epoch."""
    seconds = (
        sum(
            chain.epoch_seconds(epoch)
            for chain in hop.workload.chains
            if chain.model in models
            for epoch in trainings
            if hop.workload.done.get(chain.model, _FRESH).epoch <= epoch <= chain.epochs
        )
        for hop in (after, before)
    )
    return StageFork(len(models), trainings, *seconds)
