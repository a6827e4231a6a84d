"""What to take under a budget: by an integer program where OR-tools is installed, else greedily.

Both say how far from the best they may be. For the greedy choice that follows from the fractional knapsack, whose
greedy solution is the best there is (Dantzig, Operations Research 5(2), 1957).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

PROGRAM_SECONDS = 3.0
"""After so long the solver's best is taken."""
_SECONDS_UNIT = 1e-6
"""Solvers count in whole numbers."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that may be taken."""

    saved_seconds: float
    size: float
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What is taken."""

    items: tuple[int, ...]
    """Their numbers, in order."""
    saved_seconds: float
    at_most_seconds: float
    """No choice saves more."""
    by: str
    """`greedy` or `program`; empty where there was no choice, since all have room."""


def pick(items: Sequence[Item], budget: float) -> Picked:
    """The items that save most and have room together, as far as that can be found out in `PROGRAM_SECONDS`."""
    useful = [number for number, item in enumerate(items) if item.saved_seconds > 0]
    if sum(items[number].size for number in useful) <= budget:
        saved = sum(items[number].saved_seconds for number in useful)
        return Picked(tuple(useful), saved, saved, "")
    greedy = greedily(items, budget)
    found = by_program(items, budget, greedy)
    if found is None:
        return greedy
    if found.saved_seconds <= greedy.saved_seconds + len(items) * _SECONDS_UNIT:  # of equal ones the first are taken
        return replace(greedy, at_most_seconds=max(greedy.saved_seconds, found.at_most_seconds), by="program")
    return found


def greedily(items: Sequence[Item], budget: float) -> Picked:
    """Those first that save most a byte; of equal ones the first."""
    order = sorted(range(len(items)), key=lambda number: -items[number].saved_seconds / max(1.0, items[number].size))
    left, taken = budget, list[int]()
    for number in order:
        if items[number].saved_seconds > 0 and items[number].size <= left:
            left -= items[number].size
            taken.append(number)
    return _picked(items, taken, _fractional(items, order, budget), "greedy")


def by_program(items: Sequence[Item], budget: float, hint: Picked) -> Picked | None:
    """The solution of the integer program, beginning with `hint`; None where there is no solver, or it finds none."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return None
    model = cp_model.CpModel()
    useful = [number for number, item in enumerate(items) if item.saved_seconds > 0 and item.size <= budget]
    take = {number: model.new_bool_var(f"take {number}") for number in useful}
    sizes = {number: math.ceil(items[number].size) for number in useful}
    values = {number: round(items[number].saved_seconds / _SECONDS_UNIT) for number in useful}
    model.add(sum(sizes[number] * variable for number, variable in take.items()) <= math.floor(budget))
    model.maximize(sum(values[number] * variable for number, variable in take.items()))
    for number, variable in take.items():
        model.add_hint(variable, number in hint.items)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = PROGRAM_SECONDS
    solver.parameters.num_workers = 1
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    bound = (solver.best_objective_bound + len(useful)) * _SECONDS_UNIT  # each value may be rounded down
    taken = [number for number, variable in take.items() if solver.boolean_value(variable)]
    return _picked(items, taken, min(hint.at_most_seconds, bound), "program")


def _fractional(items: Sequence[Item], order: Sequence[int], budget: float) -> float:
    """What is saved if the item that has no room any more may be taken in part."""
    left, saved = budget, 0.0
    for number in order:
        item = items[number]
        if item.saved_seconds <= 0:
            break
        share = min(1.0, left / item.size) if item.size else 1.0
        saved, left = saved + share * item.saved_seconds, left - share * item.size
    return saved


def _picked(items: Sequence[Item], taken: Sequence[int], at_most: float, by: str) -> Picked:
    saved = sum(items[number].saved_seconds for number in taken)
    return Picked(tuple(sorted(taken)), saved, max(saved, at_most), by)
