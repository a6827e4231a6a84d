"""The planner: plays alternatives through, and keeps the cheapest one that fits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cerebro.errors import PlanError
from cerebro.optimizer.cost_model import Prices, bound
from cerebro.optimizer.given import Given
from cerebro.optimizer.rule import Option
from cerebro.plan.considered import Considered
from cerebro.plan.cost import Cost
from cerebro.plan.logical import Select
from cerebro.quantities import bytes_text, seconds_text

AS_IT_IS = "without"


@dataclass(frozen=True, slots=True)
class Choice:
    """The tree that was kept, and what it was weighed against."""

    root: Select
    considered: tuple[Considered, ...] = ()


def weigh(rule: str, root: Select, options: Iterable[Option], prices: Prices) -> Choice:
    """The cheapest of the tree as it is and of the options that fit; of equal ones the first.

    What is needed is done without being played through, unless there is a choice of several.
    """
    options = list(options)
    possible = [option for option in options if option.root is not None]
    refused = [Considered(rule, option.text, False, why_not=option.why_not) for option in options if not option.root]
    if not any(option.needed for option in possible):
        possible = [Option(AS_IT_IS, root), *possible]
    if len(possible) == 1:
        return _alone(rule, possible[0], refused)
    roots = [option.root for option in possible if option.root is not None]
    bounds = [bound(each, prices.given) for each in roots]
    played, best = _played(roots, bounds, prices)
    weighed = list[Considered]()
    for index, (option, least) in enumerate(zip(possible, bounds, strict=True)):
        cost, kept = played.get(index, least), index == best
        why_not = "" if kept else _why_not(cost, played[best], prices.given, index in played)
        weighed.append(Considered(rule, option.text, kept, cost, why_not, is_played=index in played))
    return Choice(roots[best], (*weighed, *refused))


def check_memory(cost: Cost, given: Given) -> None:
    """Check that a plan can be run here.

    Raises:
        PlanError: it needs more memory than there is.
    """
    if fits(cost, given):
        return
    assert given.memory_bytes is not None, "what does not fit has a limit"
    largest = max(given.work.profiles.values(), key=lambda profile: profile.state_bytes)
    raise PlanError(
        f"the plan needs {bytes_text(cost.peak_bytes)} of memory on {given.means.workers} workers, and "
        f"{bytes_text(given.memory_bytes)} are free (the largest state, of {largest.architecture}, has "
        f"{bytes_text(largest.state_bytes)}): use fewer workers or fewer models at once"
    )


def fits(cost: Cost, given: Given) -> bool:
    """Whether there is the memory that a plan needs."""
    return given.memory_bytes is None or cost.peak_bytes <= given.memory_bytes


def _alone(rule: str, option: Option, refused: Sequence[Considered]) -> Choice:
    """There is one way on; it is told where others were looked at, or the user asked for it."""
    assert option.root is not None, "there is a way on"
    told = refused and option.text != AS_IT_IS
    return Choice(option.root, (*([Considered(rule, option.text, True)] if told else []), *refused))


def _played(roots: Sequence[Select], bounds: Sequence[Cost], prices: Prices) -> tuple[dict[int, Cost], int]:
    """What some trees cost, and which is the first of the quickest of those that fit.

    Those that look best are played through first, and none that cannot be quicker than the best so far: branch and
    bound. Where none fits, it is the one that needs least memory.
    """
    fitting = [index for index, least in enumerate(bounds) if fits(least, prices.given)]
    if not fitting:
        smallest = min(range(len(bounds)), key=lambda index: bounds[index].peak_bytes)
        return {smallest: prices.of(roots[smallest]).cost}, smallest
    played = dict[int, Cost]()
    for index in sorted(fitting, key=lambda index: bounds[index].seconds):
        if all(bounds[index].seconds <= cost.seconds for cost in played.values()):
            played[index] = prices.of(roots[index]).cost
    return played, min(sorted(played), key=lambda index: played[index].seconds)


def _why_not(cost: Cost, best: Cost, given: Given, is_played: bool) -> str:
    if not fits(cost, given) and given.memory_bytes is not None:
        return f"{bytes_text(given.memory_bytes)} of memory are free"
    more = cost.seconds - best.seconds
    return f"{'' if is_played else 'at least '}{seconds_text(more)} more" if more > 0 else "no shorter"
