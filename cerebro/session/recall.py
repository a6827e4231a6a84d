"""Bringing the steering of an experiment to where earlier runs left it.

Nothing of it is stored: the same results and the same orders, given at the same places, make the same decisions again.
What the log does not know of them was decided by a driver that died before it could write it down.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cerebro.control.orders import Order, parse_order
from cerebro.control.steering import Steering
from cerebro.messages import Ruling
from cerebro.plan.program import Ancestor
from cerebro.session.members import member_in
from cerebro.spec.experiment import objective
from cerebro.storage.catalog import CatalogReader

_BAD_ENDS = ("failed", "diverged")


def recall(steering: Steering, reader: CatalogReader) -> list[Ruling]:
    """Bring a steering that has decided nothing to where the catalog says it was; gives what is new to the log."""
    return _Past(steering, reader).recalled()


class _Past:
    """What the catalog knows, given to a steering bit by bit."""

    def __init__(self, steering: Steering, reader: CatalogReader) -> None:
        self._steering, self._events = steering, reader.events()
        self._rows = {row["model"]: row for row in reader.models()}
        self._orders = [(row["actor"], json.loads(row["body"])) for row in reader.rows("commands", order="seq")]
        split, name = objective(reader.experiment()["metric"])
        self._values = {
            (row["model"], row["epoch"]): row["value"]
            for row in reader.metrics()
            if (row["split"], row["name"]) == (split, name)
        }
        self._offered = set[str]()
        self._told = iter([event["body"]["model"] for event in self._events if event["kind"] == "told"])

    def recalled(self) -> list[Ruling]:
        logged = {_key(event["kind"], event["body"]) for event in self._events}
        rulings = list(self._again())  # what has become of a model is known when all is told
        return [ruling for ruling in rulings if not self._is_known(ruling, logged)]

    def _is_known(self, ruling: Ruling, logged: set[tuple[Any, ...]]) -> bool:
        if ruling.member is not None and ruling.model in self._rows and not self._steering.has_lanes:
            return True  # all are there from the beginning, and the log would say nothing more
        if ruling.kind == "model finished" and ruling.model and ruling.epoch < self._steering.until(ruling.model):
            return True  # it was asked for more by then, as its result was offered before that
        body = {"model": ruling.model, "until": ruling.until, "order": ruling.order}
        return _key(ruling.kind, body) in logged

    def _again(self) -> Iterator[Ruling]:
        yield from self._offering(self._steering.begin())
        refused = {event["body"].get("order") for event in self._events if event["kind"] == "refused"}
        for actor, body in self._orders:
            if "id" not in body:
                continue  # such as the beginning of a run
            yield from self._advanced(body["told"])
            order = _order(actor, body)
            if order.id not in refused or self._was_obeyed(order):
                yield from self._offering(self._steering.obey(order, self._ancestor()))
        yield from self._advanced(None)

    def _was_obeyed(self, order: Order) -> bool:
        """Whether the steering itself refused: then it is asked, and refuses, again."""
        bodies = [event["body"] for event in self._events if event["body"].get("order") == order.id]
        return any(body.get("model") for body in bodies)

    def _advanced(self, told: int | None) -> Iterator[Ruling]:
        """Tell what was told, up to so many results in all."""
        for model in self._told_out_of_order(told):
            yield from self._offering(self._steering.advance_to(model))
        if not self._steering.keeps_virtual_time and told is not None:
            return
        before = -1
        while before < self._steering.told:
            before = self._steering.told
            yield from self._offering(self._steering.advance(float("inf") if told is None else told))

    def _told_out_of_order(self, told: int | None) -> Iterator[str]:
        while (told is None or self._steering.told < told) and (model := next(self._told, None)) is not None:
            yield model

    def _offering(self, rulings: list[Ruling]) -> list[Ruling]:
        """Let the results of new models be known, since decisions are made by them; gives all rulings."""
        found = list(rulings)
        for ruling in rulings:
            model = ruling.model
            if ruling.member is not None and model is not None and model in self._rows and model not in self._offered:
                self._offered.add(model)
                found += self._offer(model)
        return found

    def _offer(self, model: str) -> list[Ruling]:
        row, found = self._rows[model], list[Ruling]()
        ancestor = member_in(row).ancestor
        for epoch in range(ancestor.epoch if ancestor else 1, row["epochs"] + 1):
            found += self._steering.offer(model, epoch, self._values.get((model, epoch)))
        if row["status"] in _BAD_ENDS:
            self._steering.fail(model)
        return found

    def _ancestor(self) -> Ancestor | None:
        """The ancestor of the model that comes next, if it is a warm clone."""
        row = self._rows.get(self._steering.fresh)
        return member_in(row).ancestor if row else None


def _order(actor: str, body: Mapping[str, Any]) -> Order:
    fields = {name: body[name] for name in ("id", "command", "body", "note", "ts")}
    return parse_order(json.dumps({**fields, "actor": actor}))


def _key(kind: str, body: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells one entry of the log from all others of its kind."""
    return kind, body.get("model"), body.get("until"), body.get("order")
