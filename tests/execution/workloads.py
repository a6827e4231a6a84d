"""Workloads for tests of the scheduler, built from what a test is about."""

from collections.abc import Sequence

from cerebro.ids import model_id
from cerebro.plan.order import visit_orders
from cerebro.plan.workload import Chain, Workload


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
) -> Workload:
    """One model for each of `seconds`, the time of a visit of any train shard; `valid`: those of valid shards."""
    chains = tuple(
        Chain(model_id(i), epochs, (cost,) * shards, tuple(valid), visit_orders(order, seed, epochs, shards, i))
        for i, cost in enumerate(seconds)
    )
    return Workload(chains, workers, pinned)
