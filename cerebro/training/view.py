"""A user's `view` of a batch: derived columns where it is pure, else applied to every batch as it is."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from cerebro.errors import ModelError
from cerebro.ids import digest
from cerebro.training.identity import identity_of
from cerebro.training.probing import close_rows, same
from cerebro.training.randomness import set_generators

Batch = dict[str, torch.Tensor]


class View:
    """The view of one learner."""

    def __init__(self, function: Callable[[Any], Any], salt: str) -> None:
        self._function = function
        self.identity = digest(["view", identity_of(function) or salt])
        self.name = "view"
        self.reason: str | None = None
        """Why it is applied to every batch; empty where it is a derived column, None until it is known."""
        self._names: list[str] = []

    @property
    def is_derived(self) -> bool:
        """Whether what it gives is kept as columns."""
        return self.reason == ""

    def of(self, batch: Batch) -> Batch:
        """What the user's function gives.

        Raises:
            ModelError: it is not a batch.
        """
        found = self._function(batch)
        if not isinstance(found, Mapping) or not all(isinstance(column, torch.Tensor) for column in found.values()):
            raise ModelError(f"Learner.view: gave {type(found).__name__}; it must give a dict of tensors")
        rows = len(next(iter(batch.values())))
        for name, column in found.items():
            if column.dim() == 0 or len(column) != rows:
                raise ModelError(
                    f"Learner.view: gave {name!r} of shape {tuple(column.shape)} for {rows} rows; it must give a row "
                    "for each"
                )
        return type(batch)(found)

    def changed(self, batch: Batch) -> tuple[Batch, set[str]]:
        """What it makes of a canonical batch, and which columns are not as they were before.

        Raises:
            ModelError: as `of`, or there are other columns than in the first rows.
        """
        before = {name: (column, column._version) for name, column in batch.items()}
        made = self.of(batch)
        if list(made) != self._names:
            raise ModelError(f"Learner.view: gave the columns {list(made)}, and {self._names} for the first rows")
        kept = {
            name
            for name, column in made.items()
            if name in before and before[name][0] is column and before[name][1] == column._version
        }
        return made, made.keys() - kept

    def shown(self, columns: Mapping[str, Any], made: Batch) -> dict[str, Any]:
        """The columns of a shard as the loss sees them: what was `made`, and what is as it was."""
        return {name: made[name] if name in made else columns[name] for name in self._names}

    def find_out(self, batch: Batch) -> None:
        """See on a few rows whether it is pure."""
        rows = len(next(iter(batch.values())))
        once, again = self._seen(batch, 0), self._seen(batch, 1)
        self._names = list(once)
        half = self._seen({name: column[: rows // 2] for name, column in batch.items()}, 1) if rows > 1 else once
        if list(once) != list(again) or not same(list(once.values()), list(again.values())):
            self.reason = "it is random"
        elif list(once) != list(half) or not all(close_rows(once[n], half[n], rows, rows // 2) for n in once):
            self.reason = "what it gives for a row depends on the other rows of the batch"
        else:
            self.reason = ""

    def _seen(self, batch: Batch, key: int) -> Batch:
        set_generators(("trace", key))
        with torch.no_grad():
            return self.of({name: column.clone() for name, column in batch.items()})
