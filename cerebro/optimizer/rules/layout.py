"""Layout: models with 2-D convolutions are trained with their channels last, where a pilot says that enough is gained.

It gives other bits, so that a pilot tries it with `exact=False` alone. Models that go in passes, or share
their first epochs, stay as they are.

Before:

    Select  best valid.accuracy (max)
    └─ Hop  2 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Train  4 × CNN {lr}    90,000 parameters ...

After:

    Select  best valid.accuracy (max)
    └─ Hop  2 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Train  4 × CNN {lr}    channels_last, 1.30 × as fast, deviation 2e-07   90,000 parameters ...
"""

from collections.abc import Iterator
from dataclasses import replace

from cerebro.operators.fuse import rewritten_hop
from cerebro.optimizer.given import Given
from cerebro.optimizer.rule import Option
from cerebro.optimizer.rules.fuse import INEXACT_GAIN_MIN
from cerebro.plan.cost import Rewrite
from cerebro.plan.kernels import CHANNELS_LAST
from cerebro.plan.logical import Select
from cerebro.plan.physical import Hop, TrainGroup


def layout(root: Select, given: Given) -> Iterator[Option]:
    """All models that gain enough with their channels last; and of the others that were tried, what they gain."""
    hop = root.train
    assert isinstance(hop, Hop), "how steps are computed is chosen in a physical plan"
    forked = {chain.model for chain in hop.workload.chains if chain.passes}
    alone = [group for group in hop.groups if not group.passes and forked.isdisjoint(group.configs)]
    tried = [(group, found) for group in alone if (found := _tried(group)) is not None]
    paying = {group.profile.signature: found for group, found in tried if found.gain >= INEXACT_GAIN_MIN}
    if paying:
        kinds = [group.kind() for group, _ in tried if group.profile.signature in paying]
        text = f"{', '.join(kinds)} with channels last"
        yield Option(text, replace(root, train=rewritten_hop(hop, paying, given.work.profiles, given.work.repeats)))
    for group, found in tried:
        if group.profile.signature not in paying:
            why_not = f"gains {found.gain:.2f} ×, less than {INEXACT_GAIN_MIN}"
            yield Option(f"{group.kind()} with channels last", why_not=why_not)


def _tried(group: TrainGroup) -> Rewrite | None:
    return next((found for found in group.profile.rewrites if found.name == CHANNELS_LAST), None)
