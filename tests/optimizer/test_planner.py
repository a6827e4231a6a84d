"""The planner keeps the cheapest tree that fits, and says what it was weighed against."""

from dataclasses import replace

import pytest

from cerebro.errors import PlanError
from cerebro.execution.forecast import forecast
from cerebro.optimizer import cost_model
from cerebro.optimizer.cost_model import Prices
from cerebro.optimizer.optimizer import RULES, applied, optimize
from cerebro.optimizer.planner import AS_IT_IS, weigh
from cerebro.optimizer.rule import Option
from cerebro.optimizer.rules.hop import hop
from cerebro.plan.physical import Hop
from cerebro.plan.program import SHARDS_BYTES
from tests.optimizer.plans import MLP, given, grid, select

CONFIGS = grid(4)
KNOWN = given(CONFIGS, MLP)


def hopping():
    root, _ = applied((hop,), select(CONFIGS), Prices(KNOWN))
    return root


def slower(root, times):
    """The same plan with units that take so many times as long."""
    operator = root.train
    assert isinstance(operator, Hop)
    chains = tuple(
        replace(chain, train_seconds=tuple(times * seconds for seconds in chain.train_seconds))
        for chain in operator.workload.chains
    )
    return replace(root, train=replace(operator, workload=replace(operator.workload, chains=chains)))


def test_the_cheapest_is_kept_and_the_others_say_what_they_cost_more():
    root = hopping()
    options = [Option("half", slower(root, 0.5)), Option("double", slower(root, 2)), Option("none", why_not="no way")]
    choice = weigh("rule", root, options, Prices(KNOWN))
    assert choice.root is options[0].root
    told = [(each.text, each.kept, bool(each.cost)) for each in choice.considered]
    assert told == [(AS_IT_IS, False, True), ("half", True, True), ("double", False, True), ("none", False, False)]
    assert choice.considered[2].why_not == "at least 1.2 s more"
    assert choice.considered[3].why_not == "no way"


def test_of_equal_trees_the_first_is_kept():
    root = hopping()
    assert weigh("rule", root, [Option("same", slower(root, 1))], Prices(KNOWN)).root is root


def test_what_is_needed_is_done_whatever_it_costs():
    root = hopping()
    assert weigh("rule", root, [Option("must", dear := slower(root, 9), needed=True)], Prices(KNOWN)).root is dear


def test_what_does_not_fit_is_not_kept_however_quick_it_is():
    root = hopping()
    narrow = replace(root, train=replace(root.train, workload=replace(root.train.workload, workers=1)))
    tight = replace(KNOWN, memory_bytes=400 << 20)
    choice = weigh("rule", root, [Option("one worker", narrow)], Prices(tight))
    assert choice.root is narrow
    assert choice.considered[0].why_not == "400.0 MiB of memory are free"


def test_a_plan_that_fits_nowhere_is_refused_with_numbers():
    with pytest.raises(PlanError, match=r"needs 600\.1 MiB of memory on 2 workers, and 100\.0 MiB are free.*fewer"):
        optimize(select(CONFIGS), replace(KNOWN, memory_bytes=100 << 20))


def test_a_rule_that_offers_nothing_changes_nothing():
    assert (
        applied((*RULES, lambda root, known: ()), select(CONFIGS), Prices(KNOWN))[0]
        == optimize(select(CONFIGS), KNOWN).plan.root
    )


def test_trees_of_equal_work_are_played_through_once(monkeypatch):
    played = list[object]()
    monkeypatch.setattr(cost_model, "forecast", lambda *args: played.append(args) or forecast(*args))
    prices = Prices(KNOWN)
    logical = select(CONFIGS)
    costs = [prices.of(root).cost for root in (logical, replace(logical), applied((hop,), logical, prices)[0])]
    assert len(played) == 1
    assert costs[0] == costs[1] == costs[2]


def test_every_model_is_built_on_each_worker_and_the_first_of_a_kind_is_slower():
    slow = replace(MLP, build_seconds=0.5, trace_seconds=0.25, first_seconds=2.0)
    plain, later = (optimize(select(CONFIGS), given(CONFIGS, profile)).plan.cost.seconds for profile in (MLP, slow))
    assert later == pytest.approx(plain + 4 * 0.75 + 2.0)


def test_a_plan_counts_the_shards_and_the_learners_that_a_worker_holds():
    few, more, many = (
        optimize(select(CONFIGS), given(CONFIGS, MLP, data_bytes=data)).plan.cost.peak_bytes
        for data in (0, 1 << 20, 1 << 40)
    )
    assert more - few == 2 << 20  # on two workers
    assert many - few == 2 * SHARDS_BYTES
