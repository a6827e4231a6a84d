"""Which visits are one computation: those with equal configs, repeats, states, and ways of taking a state over."""

import pytest

from cerebro.messages import Unit
from cerebro.plan.program import Ancestor, Member
from cerebro.training.sharing import same_visits

LATE = {"lr": {"@1": 0.1, "@3": 0.01}}
ONE = memoryview(b"one state")


def shared(one: Member, other: Member, epoch: int = 2, position: int = 1, states=(ONE, ONE)) -> bool:
    units = [Unit(model, "train", epoch, position, 0) for model in ("m001", "m002")]
    return len(same_visits(units, [one, other], states)) == 1


@pytest.mark.parametrize(
    ("one", "other", "epoch", "expected"),
    [
        (Member({"lr": 0.1}), Member({"lr": 0.1}), 2, True),
        (Member(LATE), Member({"lr": 0.1}), 2, True),
        (Member(LATE), Member({"lr": 0.1}), 3, False),
        (Member(LATE), Member({"lr": {"@1": 0.1, "@3": 0.01, "@5": 1}}), 4, True),
        (Member({"lr": 1}), Member({"lr": True}), 2, False),
        (Member({"lr": 0.1}), Member({"lr": 0.1}, repeat=1), 2, False),
    ],
)
def test_what_counts_is_the_config_of_the_epoch(one, other, epoch, expected):
    assert shared(one, other, epoch) == expected


def test_states_are_compared_byte_by_byte():
    plain = Member({"lr": 0.1})
    assert shared(plain, plain, states=(ONE, memoryview(bytes(ONE))))
    assert not shared(plain, plain, states=(ONE, memoryview(b"one statf")))
    assert not shared(plain, plain, states=(ONE, None))
    assert shared(plain, plain, epoch=1, position=0, states=(None, None))


def test_a_state_that_is_taken_over_is_not_the_same_as_one_that_is_the_models_own():
    """At the beginning of a stage the learner is built anew, also where others have had its values all along."""
    assert not shared(Member(LATE), Member({"lr": 0.01}), 3, 0)
    assert shared(Member(LATE), Member({"lr": 0.01}), 3, 1)
    assert shared(Member({"lr": {"@1": 0.1, "@3": 0.1}}), Member({"lr": 0.1}), 3, 0)  # nothing begins
    clone = Member({"lr": 0.1}, ancestor=Ancestor("m003", "digest", "reset", 2))
    assert not shared(clone, Member({"lr": 0.1}), 2, 0)
    assert shared(clone, Member({"lr": 0.1}), 2, 1)


def test_several_groups_are_told_apart_in_the_order_of_their_first():
    members = [Member({"lr": rate}) for rate in (0.1, 0.2, 0.1, 0.2, 0.3)]
    units = [Unit(f"m{place}", "train", 1, 0, 0) for place in range(5)]
    assert same_visits(units, members, [None] * 5) == [[0, 2], [1, 3], [4]]
