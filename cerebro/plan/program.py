"""What every worker must know to run any unit of one experiment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Program:
    """The part of an experiment that its workers share; only `build` is code."""

    build: Callable[[Mapping[str, Any]], Any]
    data: Path
    configs: Mapping[str, Mapping[str, Any]]
    """The config of each model, by id."""
    seed: int
    repeat: int = 0
    independent: bool = False
    device: str = "cpu"
    """`cpu`, or `cuda` for one worker per GPU."""
