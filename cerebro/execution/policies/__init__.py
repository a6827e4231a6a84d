"""The scheduling policies, by name."""

from collections.abc import Callable, Mapping

from cerebro.errors import SpecError
from cerebro.execution.policies.longest_remaining import best_variation
from cerebro.execution.policies.randomised import Randomised
from cerebro.execution.policies.shared_scan import best_scan
from cerebro.execution.policy import Policy
from cerebro.plan.workload import Workload

POLICIES: Mapping[str, Callable[[Workload, int], Policy]] = {
    "longest-remaining": best_variation,
    "shared-scan": best_scan,
    "random": lambda workload, seed: Randomised(seed),
}

DEFAULT_POLICY = "longest-remaining"
SCAN_POLICY = "shared-scan"
"""What takes the place of the default where memory cannot hold all shards."""


def make_policy(name: str, workload: Workload, seed: int = 0) -> Policy:
    """A policy for a workload; the same arguments give one that decides the same.

    Raises:
        SpecError: there is no policy of that name.
    """
    if name not in POLICIES:
        raise SpecError(f"policy: {name!r} is not one of {', '.join(POLICIES)}")
    return POLICIES[name](workload, seed)
