"""Visit orders: which train shard a model visits at each position of each epoch.

The order is part of the logical plan: it depends on the seed and the number of shards, never on the workers.
"""

import functools

from cerebro.plan.workload import Order
from cerebro.streams import permutation


def visit_orders(kind: str, seed: int, epochs: int, shards: int, model_index: int) -> tuple[Order, ...] | None:
    """For each epoch the shards in order of visit; None where the scheduler may pick (`free`).

    `same` gives every model the epoch's permutation; `latin` rotates it by the model's index, so that models that
    start together never want the same shard.
    """
    if kind == "free":
        return None
    shift = model_index % shards if kind == "latin" else 0
    return tuple(_rotated(_epoch_order(seed, epoch, shards), shift) for epoch in range(1, epochs + 1))


@functools.lru_cache(maxsize=4096)
def _epoch_order(seed: int, epoch: int, shards: int) -> Order:
    return tuple(permutation(shards, (seed, "order", epoch)).tolist())


def _rotated(order: Order, shift: int) -> Order:
    return order[shift:] + order[:shift]
