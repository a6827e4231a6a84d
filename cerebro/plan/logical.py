"""The logical plan: what must be true of the answer, and nothing about how it is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.plan.node import Node
from cerebro.quantities import count_text


@dataclass(frozen=True)
class Scan(Node):
    """The shards of a dataset."""

    data: str
    train_rows: tuple[int, ...]
    """Rows of each train shard."""
    valid_rows: tuple[int, ...]
    train_bytes: tuple[int, ...] = ()
    """Bytes of each train shard; empty where they do not matter."""
    valid_bytes: tuple[int, ...] = ()

    def label(self) -> str:
        valid = f", valid {_shards_text(self.valid_rows)}" if self.valid_rows else ", no valid split"
        return f"Scan  {self.data}: train {_shards_text(self.train_rows)}{valid}"


@dataclass(frozen=True)
class Train(Node):
    """Every model visits every train shard once an epoch, and is measured on every valid shard after it."""

    configs: Mapping[str, Mapping[str, Any]]
    """The config of each model, by id."""
    epochs: int
    order: str
    seed: int
    scan: Scan
    derived: tuple[Node, ...] = ()
    """Columns that are derived of those of the dataset, as the optimizer comes by them."""

    def label(self) -> str:
        varying = ", ".join(varying_names(list(self.configs.values())))
        dimensions = f" {{{varying}}}" if varying else ""
        return (
            f"Train  {count_text(len(self.configs), 'model')}{dimensions} × {count_text(self.epochs, 'epoch')}, "
            f"order {self.order}, seed {self.seed}"
        )

    def children(self) -> tuple[Node, ...]:
        return (*self.derived, self.scan)


@dataclass(frozen=True)
class Select(Node):
    """The best of the trained models."""

    split: str
    metric: str
    mode: str
    train: Node

    def label(self) -> str:
        return f"Select  best {self.split}.{self.metric} ({self.mode})"

    def children(self) -> tuple[Node, ...]:
        return (self.train,)


def varying_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values are not the same in all configs, in order of appearance."""
    names = dict.fromkeys(name for config in configs for name in config)
    absent = object()
    first = configs[0]
    return [n for n in names if any(config.get(n, absent) != first.get(n, absent) for config in configs[1:])]


def _shards_text(rows: tuple[int, ...]) -> str:
    return f"{sum(rows):,} rows in {count_text(len(rows), 'shard')}"
