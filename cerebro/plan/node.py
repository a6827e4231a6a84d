"""Plans are frozen trees; every tree prints, and what is printed is what the tests compare."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Node(ABC):
    """One step of a plan."""

    @abstractmethod
    def label(self) -> str:
        """What the step does, in one line."""

    def note(self) -> str:
        """What is known of it beside that: costs, and what a pilot found."""
        return ""

    def children(self) -> tuple["Node", ...]:
        """The steps that this one builds on."""
        return ()


def tree(root: Node, note: Callable[[Node], str] = lambda node: "") -> str:
    """The plan as text, one line a step, with the `note` on each step in a column of its own."""
    lines = list(_lines(root, "", ""))
    width = max(len(text) for text, node in lines if note(node)) + 2 if any(note(node) for _, node in lines) else 0
    return "\n".join(f"{text:<{width}}{note(node)}".rstrip() for text, node in lines)


def _lines(node: Node, first: str, rest: str) -> Iterator[tuple[str, Node]]:
    yield first + node.label(), node
    children = node.children()
    for index, child in enumerate(children):
        last = index == len(children) - 1
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
