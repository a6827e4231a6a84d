"""Workloads for tests of the scheduler, built from what a test is about."""

from collections.abc import Sequence

from cerebro.ids import model_id
from cerebro.plan.order import visit_orders
from cerebro.plan.workload import Chain, ShardMemory, Workload


def workload(
    seconds: Sequence[float],
    *,
    shards: int = 2,
    workers: int = 2,
    epochs: int = 1,
    order: str = "same",
    pinned: bool = False,
    valid: Sequence[float] = (),
    seed: int = 0,
    groups: Sequence[str] = (),
    memory: int | None = None,
) -> Workload:
    """One model for each of `seconds`, the time of a visit of any train shard; `valid`: those of valid shards.

    `memory` says how many shards, of equal size, it may hold; `groups` names the group of each model, `-` for none.
    """
    names = [name.strip("-") for name in groups] or [""] * len(seconds)
    chains = tuple(
        Chain(
            model_id(i),
            epochs,
            (cost,) * shards,
            tuple(valid),
            visit_orders(order, seed, epochs, shards, i),
            group=names[i],
        )
        for i, cost in enumerate(seconds)
    )
    sizes = ShardMemory((1,) * shards, (1,) * len(valid), memory) if memory is not None else None
    return Workload(chains, workers, pinned, memory=sizes)
