"""What a plan costs: its schedule played through on a virtual clock, its memory, and the bytes that move."""

from collections import Counter
from dataclasses import dataclass, field

from cerebro.execution.forecast import Forecast, forecast, lower_bound
from cerebro.execution.policies import make_policy
from cerebro.execution.policy import Policy
from cerebro.operators.hop import moved_bytes
from cerebro.optimizer.given import Given
from cerebro.optimizer.rules.hop import hopped
from cerebro.plan.cost import Cost
from cerebro.plan.logical import Select
from cerebro.plan.physical import Hop, Materialize
from cerebro.plan.program import LEARNERS_BYTES, SHARDS_BYTES

WORKER_BYTES = 300 << 20
"""What a worker needs before it holds any model: Python and torch."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A tree, and what it comes to."""

    root: Select
    """As it was given; where it was not cut into units yet, the price is that of plain hopping."""
    hop: Hop
    policy: Policy
    expected: Forecast
    cost: Cost


@dataclass(frozen=True, slots=True)
class Prices:
    """What trees come to; those of equal work are played through once."""

    given: Given
    _played: list[tuple[Hop, Policy, Forecast]] = field(default_factory=list[tuple[Hop, Policy, Forecast]])

    def of(self, root: Select) -> Priced:
        """What a tree comes to."""
        hop = root.train if isinstance(root.train, Hop) else hopped(root, self.given)
        policy, expected = self._schedule(hop)
        cost = Cost(expected.makespan_seconds, peak_bytes(hop, self.given), moved_bytes(hop), expected.read_bytes)
        return Priced(root, hop, policy, expected, cost)

    def _schedule(self, hop: Hop) -> tuple[Policy, Forecast]:
        for known, policy, expected in self._played:
            if (known.policy, known.workload) == (hop.policy, hop.workload):
                return policy, expected
        policy = make_policy(hop.policy, hop.workload, self.given.seed)
        expected = forecast(hop.workload, policy)
        self._played.append((hop, policy, expected))
        return policy, expected


def peak_bytes(hop: Hop, given: Given) -> int:
    """The workers at their pilots' peak, with what each holds beside; and the present state of every model.

    A worker holds the states of a pass, the learners of other models, some shards, and derived columns.
    """
    profiles, workers = given.work.profiles, hop.workload.workers
    peak = max((profile.peak_bytes for profile in profiles.values()), default=0) or WORKER_BYTES
    passes = Counter[str]()
    for chain in hop.workload.chains:
        for group in {chain.group or chain.model, *(each.group for each in chain.passes)}:
            passes[group] += profiles[chain.model].state_bytes
    largest = max(passes.values(), default=0)
    states = sum(profiles[chain.model].state_bytes for chain in hop.workload.chains)
    held = min(LEARNERS_BYTES, states - largest) + min(SHARDS_BYTES, given.data_bytes) + _kept_bytes(hop, given)
    return workers * (peak + largest + held) + states


def _kept_bytes(hop: Hop, given: Given) -> int:
    """What each worker keeps of derived columns in memory: what is not stored, as far as there is room for it."""
    nodes = (node for node in hop.derived if isinstance(node, Materialize) and node.otherwise == "Share")
    unstored = sum(node.unstored_bytes for node in nodes)
    return round(min(given.means.features.memory_bytes, unstored))


def bound(root: Select, given: Given) -> Cost:
    """What a tree costs at least, without being played through: its seconds are what no schedule is shorter than."""
    hop = root.train if isinstance(root.train, Hop) else hopped(root, given)
    return Cost(lower_bound(hop.workload), peak_bytes(hop, given), moved_bytes(hop))
