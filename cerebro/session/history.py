"""What a model came from, in an order in which it can be computed again: its units, and those that its bits depend on.

Those are the units of its ancestors, and of the models that were in stacked passes with it: their bits are in its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from cerebro.errors import StoreError
from cerebro.execution.replay import Again
from cerebro.messages import Unit
from cerebro.plan.kernels import STACKED, models_stacked
from cerebro.plan.program import Member
from cerebro.storage.catalog import CatalogReader, UnitRow


def history(model: str, members: Mapping[str, Member], reader: CatalogReader) -> list[Again]:
    """All launches that lead to the last unit of `model`, in order.

    Raises:
        StoreError: the log does not lead there.
    """
    told = _History(model, members, reader)
    told.until(model, len(told.rows(model)))
    return told.launches


class _History:
    def __init__(self, model: str, members: Mapping[str, Member], reader: CatalogReader) -> None:
        self._model, self._members, self._reader = model, members, reader
        self.launches: list[Again] = []
        self._done: dict[str, int] = {}
        """How many of its units each model has behind it."""
        self.rows = cache(self._rows)

    def until(self, model: str, count: int) -> None:
        """Let a model come to where it has `count` of its units behind it."""
        if model not in self._done:
            self._begin(model)
        while self._done[model] < count:
            row = self.rows(model)[self._done[model]]
            together = models_stacked(row.kernel)
            for fellow in together:
                place = _place(self.rows(fellow), row.unit)
                self.until(fellow, place)
                if self._done[fellow] > place:
                    raise StoreError(f"{row.unit} is told to be made with {fellow}, which had made that visit before")
            self._launch(row, together or (model,))

    def _launch(self, row: UnitRow, models: Sequence[str]) -> None:
        """The launch that `row` is of; a model that failed in it has no row of its own."""
        units = tuple(replace(row.unit, model=model) for model in models)
        rows = tuple(self._next(unit) for unit in units)
        for known in rows:
            if known is not None:
                self._done[known.unit.model] += 1
        self.launches.append(Again(units, STACKED if models_stacked(row.kernel) else row.kernel, rows))

    def _next(self, unit: Unit) -> UnitRow | None:
        """The row of a unit, if it is the next of its model."""
        rows, done = self.rows(unit.model), self._done[unit.model]
        return rows[done] if done < len(rows) and rows[done].unit == unit else None

    def _begin(self, model: str) -> None:
        """Come to the state that a model starts from."""
        self._done[model] = 0
        ancestor = self._members[model].ancestor
        if ancestor is None or ancestor.experiment:  # what led to a state of an earlier cycle is replayed there
            return
        ends = [n for n, row in enumerate(self.rows(ancestor.model)) if row.state_digest == ancestor.state_digest]
        if ends:
            self.until(ancestor.model, ends[0] + 1)
        elif self._members[ancestor.model].ancestor == ancestor:  # cloned before it was trained any further itself
            if ancestor.model not in self._done:
                self._begin(ancestor.model)
        else:
            raise StoreError(
                f"{ancestor.model} has no unit that ends in {ancestor.state_digest}, from which {model} starts"
            )

    def _rows(self, model: str) -> list[UnitRow]:
        """The units of a model; of others than the one that is asked for, those that train."""
        rows = self._reader.units(model)
        return rows if model == self._model else [row for row in rows if row.unit.kind == "train"]


def _place(rows: Sequence[UnitRow], unit: Unit) -> int:
    """How many of these units come before a visit like `unit`."""

    def place(each: Unit) -> tuple[int, bool, int]:
        return each.epoch, each.kind != "train", each.position

    return sum(place(row.unit) < place(unit) for row in rows)
