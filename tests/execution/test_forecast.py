"""Forecasts: what a schedule takes, and what none can beat."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from cerebro.execution.forecast import count_units, forecast, lower_bound, schedule_text
from cerebro.execution.policies import longest_remaining as variations
from cerebro.execution.policies import make_policy
from cerebro.execution.policies.longest_remaining import LongestRemaining, best_variation, variation_weights
from cerebro.execution.policies.randomised import Randomised
from cerebro.messages import Unit
from cerebro.plan.workload import Done
from tests.execution.test_scheduler import POLICY_NAMES, SEEDS, WORKLOADS
from tests.execution.workloads import workload


@settings(max_examples=60, deadline=None)
@given(WORKLOADS, POLICY_NAMES, SEEDS)
def test_no_schedule_is_shorter_than_the_lower_bound(work, policy, seed):
    found = forecast(work, make_policy(policy, work, seed))
    assert found.makespan_seconds >= found.lower_bound_seconds * (1 - 1e-9)
    assert found.makespan_seconds == max(entry.end for entry in found.entries)
    assert len(found.entries) == count_units(work)


def test_the_lower_bound_of_shared_shards_is_the_work_shared_out_or_the_longest_model():
    assert lower_bound(workload([1, 2, 3], shards=4, workers=2, valid=[1.0])) == (4 * (1 + 2 + 3) + 3) / 2
    assert lower_bound(workload([1, 2, 9], shards=4, workers=2, valid=[1.0])) == 4 * 9 + 1


def test_the_lower_bound_of_pinned_shards_is_the_load_of_a_worker_or_the_longest_model():
    assert lower_bound(workload([1, 2, 3], shards=3, workers=2, pinned=True)) == 2 * (1 + 2 + 3)
    assert lower_bound(workload([1, 2, 9], shards=4, workers=4, pinned=True)) == 4 * 9


def test_what_is_done_costs_nothing_any_more():
    work = workload([1.0, 2.0], shards=2, epochs=3, valid=[1.0], workers=1)
    work = replace(work, done={"m001": Done(4), "m002": Done(3, work.chains[1].orders[2], 0)})
    found = forecast(work, make_policy("longest-remaining", work))
    assert [entry.unit for entry in found.entries] == [Unit("m002", "valid", 3, 0, 0)]
    assert found.makespan_seconds == found.lower_bound_seconds == 1.0


def test_a_workload_without_work_takes_no_time():
    work = replace(workload([1.0]), done={"m001": Done(2)})
    assert schedule_text(forecast(work, Randomised())) == "makespan 0  lower bound 0"


def test_units_may_take_other_than_their_nominal_time():
    work = workload([1.0], shards=2)
    assert forecast(work, LongestRemaining(), lambda unit: 5.0).makespan_seconds == 10.0


def test_models_of_equal_work_never_wait_for_each_other_on_pinned_shards():
    for count in (2, 3, 8, 16):
        work = workload([1.0] * count, shards=count, workers=count, epochs=3, order="free", pinned=True)
        found = forecast(work, LongestRemaining())
        assert found.makespan_seconds == found.lower_bound_seconds


def test_the_longest_model_goes_first():
    work = workload([1, 1, 1, 1, 4], shards=1)
    assert forecast(work, LongestRemaining()).makespan_seconds == 4
    assert forecast(work, LongestRemaining([1, 1, 1, 1, 0.1])).makespan_seconds == 6


def test_what_workers_take_to_begin_comes_before_all_units():
    work = workload([1, 2, 3], shards=4, workers=2)
    plain, later = (forecast(replace(work, beginning_seconds=seconds), LongestRemaining()) for seconds in (0.0, 5.0))
    assert later.makespan_seconds == plain.makespan_seconds + 5
    assert later.lower_bound_seconds == plain.lower_bound_seconds + 5
    assert [entry.start for entry in later.entries] == [entry.start + 5 for entry in plain.entries]


MIXED = workload([7, 1, 3, 9, 2, 2, 5, 1.5, 1, 6, 2, 3, 1, 1, 8, 4], shards=8, workers=8, order="free", pinned=True)


def test_the_best_variation_is_no_worse_than_the_plain_policy():
    plain = forecast(MIXED, LongestRemaining()).makespan_seconds
    assert forecast(MIXED, best_variation(MIXED, 0)).makespan_seconds < plain


def test_the_variation_that_is_kept_depends_on_workload_and_seed_alone():
    assert forecast(MIXED, best_variation(MIXED, 5)) == forecast(MIXED, best_variation(MIXED, 5))


def test_the_first_variations_are_most_work_and_most_visits():
    chains = workload([1.0, 4.0]).chains
    weights = [variation_weights(chains, 0, number) for number in range(3)]
    assert weights == [(1.0, 1.0), (1.0, 0.25), (1.0, 0.5)]


def test_a_workload_too_large_to_play_gets_the_plain_policy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(variations, "PLAYED_UNITS_MAX", 2 * count_units(MIXED) - 1)
    monkeypatch.setattr(variations, "forecast", lambda *_: pytest.fail("it was played"))
    best_variation(MIXED, 0)


def test_random_policies_of_other_seeds_decide_otherwise():
    assert forecast(MIXED, Randomised(1)) == forecast(MIXED, Randomised(1)) != forecast(MIXED, Randomised(2))
