"""Hopping: models move between workers from unit to unit, each is trained alone.

Before:

    Select  best valid.accuracy (max)
    └─ Train  2 models {lr} × 2 epochs, order same, seed 0
       └─ Scan  toy.shards: train 200 rows in 2 shards, valid 40 rows in 1 shard

After:

    Select  best valid.accuracy (max)
    └─ Hop  2 epochs · 2 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Train  2 × MLP {lr}
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cerebro.execution.policies import DEFAULT_POLICY, SCAN_POLICY
from cerebro.operators import hop as operator
from cerebro.optimizer.given import Given
from cerebro.optimizer.rule import Option
from cerebro.plan.cost import Profile
from cerebro.plan.logical import Scan, Select, Train
from cerebro.plan.physical import Hop, Materialize
from cerebro.plan.workload import ShardMemory


def hop(root: Select, given: Given) -> Iterator[Option]:
    """The units of each model, one after the other."""
    yield Option("each model hops alone", replace(root, train=hopped(root, given)), needed=True)


def hopped(root: Select, given: Given) -> Hop:
    """A logical plan cut into units, each of one model."""
    train, work, means = root.train, given.work, given.means
    assert isinstance(train, Train), "what is cut into units is a logical plan"
    memory = shard_memory(train.scan, means.shard_bytes)
    is_short = memory is not None and memory.is_short
    found = operator.hop(
        replace(train, configs=work.configs),
        with_derived_costs(work.profiles, train),
        workers=means.workers,
        policy=SCAN_POLICY if is_short and means.policy == DEFAULT_POLICY else means.policy,
        engine=means.engine,
        done=work.done,
        goals=work.goals,
        memory=memory,
    )
    return replace(found, derived=train.derived)


def shard_memory(scan: Scan, limit: int | None) -> ShardMemory | None:
    """What the shards of a scan take, and may take of memory; None where it is not known."""
    if not scan.train_bytes:
        return None
    total = sum(scan.train_bytes) + sum(scan.valid_bytes)
    return ShardMemory(scan.train_bytes, scan.valid_bytes, total if limit is None else limit)


def with_derived_costs(profiles: Mapping[str, Profile], train: Train) -> dict[str, Profile]:
    """The profiles, with what derived columns cost each row of a visit as the plan comes by them."""
    nodes = [node for node in train.derived if isinstance(node, Materialize)]
    if not nodes:
        return dict(profiles)
    visit_seconds = {node.key: node.visit_row_seconds for node in nodes}
    anew = all(node.otherwise == "Recompute" for node in nodes)
    costs = {m: sum(visit_seconds.get(part.key, 0.0) for part in p.derived) for m, p in profiles.items()}
    return {m: replace(p, derived_row_seconds=costs[m], derives_anew=anew) for m, p in profiles.items()}
