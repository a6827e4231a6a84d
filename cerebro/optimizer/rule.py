"""What a rule of the optimizer is: a pure function from a plan tree to the trees that it might be instead."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cerebro.optimizer.given import Given
from cerebro.plan.logical import Select


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that could be done to a tree."""

    text: str
    """What is done, in a few words."""
    root: Select | None = None
    """The tree with it; None where it cannot be done."""
    why_not: str = ""
    """Why it cannot be done."""
    needed: bool = False
    """Whether it must be done, whatever it costs: without it no plan is complete, or the user asked for it."""


Rule = Callable[[Select, Given], Iterable[Option]]
"""Gives what could be done to a tree, and what could not and why.

Duties of a rule:

- It is pure: no clock, no input or output, no chance. What it decides by is in the tree and in what is given.
- It gives each option as a tree of its own; which one is kept is for the planner, who plays them through. The tree as
  it is is always among the alternatives, unless an option is `needed`.
- No option changes a bit of any model, unless the user allows it.
"""
