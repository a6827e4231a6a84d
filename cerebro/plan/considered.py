"""What the optimizer has weighed: every alternative with its price, which was kept, and why not the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from cerebro.plan.cost import Cost


@dataclass(frozen=True, slots=True)
class Considered:
    """One alternative."""

    rule: str
    text: str
    kept: bool
    cost: Cost | None = None
    """What the whole plan comes to with it, where that was played through."""
    why_not: str = ""
    is_played: bool = True
    """Whether it was played through; otherwise the seconds are what it takes at least."""

    def line(self) -> str:
        """The alternative in one line: `+` for what was kept."""
        price = self.cost.text("est" if self.is_played else "at least") if self.cost else ""
        facts = "; ".join(part for part in (price, self.why_not) if part)
        return f"{'+' if self.kept else '-'} {self.text}" + (f": {facts}" if facts else "")


def considered_text(considered: Sequence[Considered]) -> str:
    """All alternatives, one a line, those of a rule together."""
    if not considered:
        return "there was nothing to choose from"
    width = max(len(each.rule) for each in considered)
    before, lines = "", list[str]()
    for each in considered:
        lines.append(f"{each.rule if each.rule != before else '':<{width}}  {each.line()}")
        before = each.rule
    return "\n".join(lines)
