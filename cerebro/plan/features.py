"""How workers come to derived columns: what frozen sub-modules and views give. Physical: no choice changes a bit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Mode = Literal["auto", "recompute", "share", "materialize"]
"""Whether a worker computes a column on every visit, keeps it in memory for the next models, or writes it to the store;
`auto` chooses by cost."""

MODES: tuple[Mode, ...] = ("auto", "recompute", "share", "materialize")


@dataclass(frozen=True, slots=True)
class Features:
    """What workers do about derived columns."""

    mode: Mode = "share"
    """What holds for all that is not named in `stored`."""
    stored: tuple[tuple[str, str, int], ...] = ()
    """The columns that are written to the store: what computes them, the split, and the shard."""
    folder: str = ""
    """Where they are written; nowhere if empty."""
    budget_bytes: int = 10 << 30
    """What the folder may hold."""
    memory_bytes: int = 256 << 20
    """What each worker may hold in memory."""
    since: float = 0.0
    """When the run began, in seconds since 1970: files that were used since are not dropped for others."""

    def way_of(self, key: str, split: str, shard: int) -> Literal["recompute", "share", "materialize"]:
        """What is done about one column."""
        if self.folder and (self.mode == "materialize" or (key, split, shard) in self.stored):
            return "materialize"
        return "recompute" if self.mode == "recompute" else "share"

    def as_json(self) -> dict[str, Any]:
        """The choices as JSON; `features_of` is the inverse."""
        return asdict(self)


def features_of(value: Mapping[str, Any]) -> Features:
    """The choices that `as_json` wrote."""
    fields: dict[str, Any] = {**value, "stored": tuple((key, split, shard) for key, split, shard in value["stored"])}
    return Features(**fields)
