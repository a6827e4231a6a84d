"""What is taken under a budget is the best there is, or says how far it may be from that."""

import sys
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.optimizer.knapsack import Item, by_program, greedily, pick
from cerebro.optimizer.materialize import Prefix, Room, choose

ITEMS = st.lists(st.builds(Item, st.floats(-1, 100), st.integers(1, 50)), max_size=8)


def best(items, budget):
    """By trying all."""
    sets = [chosen for size in range(len(items) + 1) for chosen in combinations(items, size)]
    return max(sum(i.saved_seconds for i in c) for c in sets if sum(i.size for i in c) <= budget)


@settings(max_examples=60, deadline=None)
@given(items=ITEMS, budget=st.integers(0, 150))
def test_the_program_finds_the_best_and_knows_it(items, budget):
    found = pick(items, budget)
    assert sum(items[number].size for number in found.items) <= budget
    assert found.saved_seconds == pytest.approx(best(items, budget), abs=1e-4)
    assert found.saved_seconds <= found.at_most_seconds <= found.saved_seconds + 1e-4


@settings(max_examples=60, deadline=None)
@given(items=ITEMS, budget=st.integers(0, 150))
def test_the_greedy_choice_is_no_further_from_the_best_than_it_says(items, budget):
    found = greedily(items, budget)
    assert found.saved_seconds <= best(items, budget) + 1e-9 <= found.at_most_seconds + 2e-9


def test_without_a_solver_the_choice_is_greedy_and_its_gap_is_stated(monkeypatch):
    items = [Item(6.0, 5), Item(10.0, 9), Item(5.0, 6)]
    assert pick(items, 10).saved_seconds == 10.0
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    found = pick(items, 10)
    assert (found.by, found.items) == ("greedy", (0,))
    assert found.at_most_seconds == pytest.approx(6.0 + 10.0 * 5 / 9)
    assert by_program(items, 10, found) is None


def test_where_all_have_room_there_is_nothing_to_choose():
    found = pick([Item(6.0, 5), Item(-1.0, 1), Item(10.0, 9)], 14)
    assert (found.by, found.items, found.saved_seconds) == ("", (0, 2), found.at_most_seconds)


def test_a_choice_of_prefixes_says_its_gap(monkeypatch):
    prefixes = [Prefix(f"p{n}", f"p{n}", 4, 40, 1e-3 * (n + 3), 256.0 * (7 - n)) for n in range(5)]
    rows = {("train", 0): 1000, ("train", 1): 1000}
    room = Room(budget_bytes=2_500_000, memory_bytes=0, workers=2)
    program = choose(prefixes, rows, room)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    greedy = choose(prefixes, rows, room)
    seconds = [sum(choice.seconds for choice in chosen.choices) for chosen in (program, greedy)]
    assert (program.by, greedy.by) == ("program", "greedy")
    assert program.gap < 1e-4
    assert seconds[0] <= seconds[1]
    assert seconds[1] * (1 - greedy.gap) <= seconds[0] + 1e-6
