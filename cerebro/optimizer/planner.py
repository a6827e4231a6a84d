"""The planner: plays alternatives through, and keeps the cheapest one that fits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cerebro.errors import PlanError
from cerebro.optimizer.cost_model import Priced, Prices
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
        return _alone(rule, possible[0], refused, prices.given)
    priced = [prices.of(option.root) for option in possible if option.root is not None]
    best = _cheapest(priced, prices.given)
    weighed = [
        Considered(rule, option.text, index == best, each.cost, _why_not(each, priced[best], prices.given))
        for index, (option, each) in enumerate(zip(possible, priced, strict=True))
    ]
    return Choice(priced[best].root, (*weighed, *refused))


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


def _alone(rule: str, option: Option, refused: Sequence[Considered], given: Given) -> Choice:
    """There is one way on; it is told where others were looked at, or the user asked for it."""
    assert option.root is not None, "there is a way on"
    told = refused and option.text != AS_IT_IS
    return Choice(option.root, (*([Considered(rule, option.text, True)] if told else []), *refused))


def _cheapest(priced: Sequence[Priced], given: Given) -> int:
    """The first of the quickest of those that fit; where none does, of those that need least memory."""
    fitting = [index for index, each in enumerate(priced) if fits(each.cost, given)]
    if fitting:
        return min(fitting, key=lambda index: priced[index].cost.seconds)
    return min(range(len(priced)), key=lambda index: priced[index].cost.peak_bytes)


def _why_not(each: Priced, best: Priced, given: Given) -> str:
    if each is best:
        return ""
    if not fits(each.cost, given) and given.memory_bytes is not None:
        return f"{bytes_text(given.memory_bytes)} of memory are free"
    more = each.cost.seconds - best.cost.seconds
    return f"{seconds_text(more)} more" if more > 0 else "no shorter"
