"""Which models go together is decided by what a pilot measured, and shared out evenly among the workers."""

from dataclasses import replace

import pytest

from cerebro.execution.forecast import forecast
from cerebro.execution.policies.longest_remaining import LongestRemaining
from cerebro.optimizer.optimizer import optimize
from cerebro.optimizer.rules import fuse as rule
from cerebro.optimizer.rules.fuse import MODELS_MAX, STATE_BYTES_MAX, candidates, fusing, passes, pays
from cerebro.plan.cost import Derivation, Profile, Together
from cerebro.plan.fusing import Fusing
from cerebro.plan.workload import Chain, Workload
from tests.optimizer.plans import given, grid, select

SMALL = Profile(
    "net", "Net", 1000, "AdamW", 32, 32, False, ("loss",), state_bytes=10_000, train_batch_seconds=0.001,
    valid_batch_seconds=0.001, together=Together(4, train_gain=2.0, valid_gain=1.5),
)  # fmt: skip
WIDE = replace(SMALL, signature="wide", together=Together(4, train_gain=1.04))


def models(count: int, profile: Profile = SMALL, first: int = 1) -> dict[str, Profile]:
    return {f"m{number:03d}": profile for number in range(first, first + count)}


@pytest.mark.parametrize(
    ("count", "state_bytes", "workers", "groups"),
    [
        (8, 1000, 2, 2),
        (3, 1000, 2, 2),
        (2, 1000, 2, 2),
        (5, 1000, 1, 1),
        (65, 1000, 2, 4),
        (MODELS_MAX, 1000, 1, 1),
        (8, STATE_BYTES_MAX // 2, 2, 4),
        (8, 2 * STATE_BYTES_MAX, 2, 8),
    ],
)
def test_models_are_shared_out_among_as_many_passes_as_keep_the_workers_busy(count, state_bytes, workers, groups):
    assert passes(count, state_bytes, workers) == groups


def test_every_model_is_in_one_group_with_its_like():
    found = fusing({**models(8), **models(4, WIDE, first=9)}, {}, workers=2)
    assert sorted(found.groups) == [f"m{number:03d}" for number in range(1, 9)]  # the wide ones gain too little
    assert len(set(found.groups.values())) == 2
    assert list(found.by_signature) == ["net"]


def test_repeats_see_other_batches_and_go_apart():
    found = fusing(models(4), {"m002": 1, "m004": 1}, workers=1).groups
    assert found["m001"] == found["m003"] != found["m002"] == found["m004"]


@pytest.mark.parametrize(
    "profile",
    [
        replace(SMALL, impure_tensor="module/weight"),
        replace(SMALL, train_batch_seconds=rule.BATCH_SECONDS_MAX * 2),
        replace(SMALL, train_batch_seconds=0.0),
    ],
    ids=["impure", "large", "not timed"],
)
def test_some_models_are_not_even_tried_together(profile):
    assert candidates(models(4, profile), {}, workers=1) == {}
    assert fusing(models(4, profile), {}, workers=1).groups == {}


def test_larger_models_are_tried_where_a_frozen_part_of_each_batch_is_saved():
    large = replace(SMALL, train_batch_seconds=rule.BATCH_SECONDS_MAX * 2)
    derived, in_batch = Derivation("key", "backbone"), Derivation("key", "backbone", "it is random")
    assert candidates(models(4, replace(large, derived=(derived,))), {}, workers=1) == {}
    assert list(candidates(models(4, replace(large, derived=(in_batch,))), {}, workers=1)) == ["net"]


@pytest.mark.parametrize(
    ("together", "gains"),
    [
        (Together(4, train_gain=1.04), False),
        (Together(4, train_gain=1.06), True),
        (Together(4, why_not="they draw other numbers", train_gain=3.0), False),
        (Together(4, train_gain=3.0), True),
    ],
)
def test_what_gains_little_or_has_other_bits_does_not_pay(together, gains):
    assert pays(together) == gains
    assert bool(fusing(models(4, replace(SMALL, together=together)), {}, workers=1).groups) == gains


def test_what_was_not_tried_together_goes_alone():
    assert fusing(models(4, replace(SMALL, together=None)), {}, workers=1) == Fusing()


def test_a_chain_in_a_group_costs_its_share_and_a_newcomer_joins_its_like():
    found = fusing(models(4), {}, workers=2)
    own = SMALL.unit_seconds  # of what a unit takes beside its batches nothing is gained
    chain = Chain("m001", 2, (1.0 + own, 2.0 + own), (3.0 + own,), None)
    known = found.chain(chain, SMALL)
    assert (*known.train_seconds, *known.valid_seconds) == pytest.approx((0.5 + own, 1.0 + own, 2.0 + own))
    assert known.group == found.groups["m001"]
    assert found.chain(replace(chain, model="m007"), SMALL).group in found.groups.values()
    assert found.chain(chain, WIDE) == chain


def test_a_pass_of_fewer_models_gains_less_and_one_of_a_single_model_nothing():
    own = SMALL.unit_seconds
    alone = Chain("m001", 2, (1.0 + own,), (3.0 + own,), None)
    chain = fusing(models(4), {}, workers=2).chain(alone, SMALL)
    assert chain.pass_gain is not None
    train = [chain.pass_gain.share("train", chain.train_seconds[0], count) for count in (4, 3, 2, 1)]
    assert train == pytest.approx([0.5 + own, 5 / 9 + own, 2 / 3 + own, 1.0 + own])  # (2/3 + count/3) / count
    assert chain.pass_gain.share("valid", chain.valid_seconds[0], 1) == pytest.approx(3.0 + own)


def test_a_larger_pass_than_the_pilot_tried_is_taken_to_gain_no_more():
    chain = fusing(models(4), {}, workers=2).chain(Chain("m001", 1, (1.0,), (), None), SMALL)
    assert chain.pass_gain is not None
    four, eight = (chain.pass_gain.share("train", chain.train_seconds[0], count) for count in (4, 8))
    assert eight == four == chain.train_seconds[0]


@pytest.mark.parametrize(("derives_anew", "seconds"), [(False, 0.5 + 1.0), (True, 0.5 + 0.25)])
def test_of_columns_that_are_derived_once_a_pass_gains_nothing_and_what_is_derived_anew_is_so_for_all(
    derives_anew, seconds
):
    row = SMALL.train_batch_seconds / SMALL.batch_size
    heads = replace(SMALL, derived_row_seconds=row, derives_anew=derives_anew)  # half of a visit
    chain = fusing(models(4, heads), {}, workers=2).chain(
        Chain("m001", 1, (2.0 + SMALL.unit_seconds,), (), None), heads
    )
    assert chain.train_seconds[0] - SMALL.unit_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("count", "begun"), [(4, 1), (3 * MODELS_MAX, 4)])
def test_where_there_is_a_worker_for_each_pass_it_begins_on_that_one_else_all_do_on_each(count, begun):
    together = Together(MODELS_MAX, train_gain=3.0, first_seconds=0.5)
    configs, noted = grid(count), replace(SMALL, noting_seconds=0.125, together=together)
    hop = optimize(select(configs), given(configs, noted)).plan.hop
    assert hop.workload.beginning_seconds == pytest.approx(begun * 0.5)  # and none of its models is noted by itself


def test_a_model_that_is_left_alone_in_its_group_is_planned_at_what_it_takes_alone():
    alone = Chain("m001", 2, (1.0,), (), None)
    chain = fusing(models(4), {}, workers=2).chain(alone, SMALL)
    seconds = [forecast(Workload((each,), 1), LongestRemaining()).makespan_seconds for each in (alone, chain)]
    assert seconds[1] == pytest.approx(seconds[0])
