"""The optimizer: an ordered tuple of rules over a frozen tree, and the loop that applies them.

After Catalyst (Spark SQL, SIGMOD 2015, section 4) and DuckDB's list of optimizers: first the rules that rewrite what is
to be done (`REWRITES`, on a logical tree), then those that choose how (`OPERATORS`, on a physical one).
"""

from dataclasses import dataclass

from cerebro.errors import InternalError
from cerebro.execution.policy import Policy
from cerebro.optimizer.cost_model import Prices
from cerebro.optimizer.given import Given
from cerebro.optimizer.planner import check_memory, weigh
from cerebro.optimizer.rule import Rule
from cerebro.optimizer.rules.derive import derive, features_of_tree
from cerebro.optimizer.rules.fork import fork
from cerebro.optimizer.rules.fuse import fuse
from cerebro.optimizer.rules.hop import hop
from cerebro.optimizer.rules.layout import layout
from cerebro.plan.considered import Considered
from cerebro.plan.logical import Select
from cerebro.plan.physical import Hop, PhysicalPlan

REWRITES: tuple[Rule, ...] = (derive,)
OPERATORS: tuple[Rule, ...] = (hop, fuse, fork, layout)
RULES = (*REWRITES, *OPERATORS)


@dataclass(frozen=True, slots=True)
class Optimized:
    """A plan that can be run, with the policy that its cost was forecast with."""

    plan: PhysicalPlan
    policy: Policy


def optimize(logical: Select, given: Given) -> Optimized:
    """The cheapest plan that the rules lead to.

    Raises:
        PlanError: it needs more memory than there is.
    """
    prices = Prices(given)
    rewritten, considered = applied(REWRITES, logical, prices)
    root, more = applied(OPERATORS, rewritten, prices)
    if not isinstance(root.train, Hop):
        raise InternalError(f"no rule has cut the plan into units:\n{root.label()}")
    priced = prices.of(root)
    check_memory(priced.cost, given)
    plan = PhysicalPlan(
        root,
        root.train,
        priced.cost,
        priced.expected.lower_bound_seconds,
        features_of_tree(root.train, given.means.features),
        rewritten,
        (*considered, *more),
    )
    return Optimized(plan, priced.policy)


def applied(rules: tuple[Rule, ...], root: Select, prices: Prices) -> tuple[Select, list[Considered]]:
    """A tree after some rules, each on what the one before has left, and all that was weighed on the way."""
    considered = list[Considered]()
    for rule in rules:
        choice = weigh(rule.__name__, root, rule(root, prices.given), prices)
        root = choice.root
        considered += choice.considered
    return root, considered
