"""Steering: what a procedure and people decide, as a fold over results and orders.

Decisions fall in virtual time. A lane is a model on its way to an epoch; it is due when as many epochs as it has to go
have passed on the virtual clock, which is the same for all models and knows no worker. Results are told in the order
in which lanes are due, whenever they arrive: so the same results and the same orders at the same places give the same
decisions with any number of workers, on any machine, and after a crash. Who waits for a lane that is due earlier waits
without need; with more lanes than workers the workers do not.
"""

import heapq
import json
import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.commands import Add, Clone, Extend, Finish, Note, Resume, Stop
from cerebro.control.orders import Order, order_text
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.errors import InternalError
from cerebro.ids import model_id
from cerebro.messages import Ruling, RulingKind
from cerebro.plan.program import Ancestor, Member

_REFUSALS_MAX = 10_000
"""A procedure that asks so often in a row for models that it may not have has lost count of them."""


@dataclass(slots=True)
class _Lane:
    """A model on its way to an epoch."""

    due: float
    number: int
    model: str
    until: int
    own: bool
    """Whether the procedure asked for it, and not a person."""
    dropped: bool = False


@dataclass(slots=True)
class _Model:
    """A config, trained once for each of its repeats."""

    config: Mapping[str, Any]
    members: tuple[str, ...]
    """The ids of its repeats; the first is the model's own."""
    place: int
    """The epoch up to which the virtual clock knows of it."""
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    """The finished epochs of each member."""
    goal: int = 0
    """The epoch that a person wants it to reach, whatever the procedure says."""
    lane: _Lane | None = None
    stopped: bool = False
    failed: bool = False

    @property
    def epoch(self) -> int:
        """The epochs that all members have finished."""
        return min(self.epochs.get(member, self.place) for member in self.members)

    @property
    def until(self) -> int:
        """The epoch that it is to reach."""
        return max(self.lane.until if self.lane else 0, self.goal, self.place)


class Steering:
    """Decides which models live and how far they train: by a procedure, and by the orders of people.

    Rulings carry out what was decided. `models_max` bounds how many configs the procedure may try.
    """

    def __init__(
        self,
        procedure: Procedure,
        terms: Terms,
        *,
        actor: str = "procedure",
        repeats: int = 1,
        deterministic: bool = True,
        models_max: int | None = None,
    ) -> None:
        self._procedure, self._terms, self._actor, self._repeats = procedure, terms, actor, repeats
        self._models_max = math.inf if models_max is None else models_max
        self._in_order = deterministic and procedure.lanes is not None
        self._models: dict[str, _Model] = {}
        self._owner: dict[str, str] = {}
        """The model of each member."""
        self._values: dict[tuple[str, int], float | None] = {}
        self._lanes: list[tuple[float, int, _Lane]] = []
        """In virtual time: the lanes that are open, or were dropped, by when they are due."""
        self._known: deque[_Lane] = deque()
        """Without it: the lanes whose results are known, as they came."""
        self._own_lanes = self._count = 0
        self._clock = 0.0
        self._waits = self._finishing = False
        self.told = 0
        """How many results the procedure has taken in."""
        procedure.begin(terms)

    @property
    def over(self) -> bool:
        """Whether nothing is under way, and the procedure asks for nothing more."""
        return not any(model.lane for model in self._models.values()) and not self._may_ask

    @property
    def is_curbed(self) -> bool:
        """Whether the procedure was not asked any more because it has had as many models as it may."""
        return not (self._finishing or self._waits) and len(self._models) >= self._models_max

    @property
    def has_lanes(self) -> bool:
        """Whether results decide what comes next."""
        return self._procedure.lanes is not None

    @property
    def fresh(self) -> str:
        """What the next new model will be called."""
        return model_id(len(self._models))

    @property
    def keeps_virtual_time(self) -> bool:
        """Whether results are told in the order in which they are due, or do not matter."""
        return self._in_order or self._procedure.lanes is None

    def is_fork_point(self, member: str, epoch: int) -> bool:
        """Whether the procedure may yet clone a member as it is after this epoch: it has asked for it."""
        model = self._models[self._owner[member]]
        return self._procedure.forks and epoch in (model.place, model.lane.until if model.lane else None)

    def until(self, member: str) -> int:
        """The epoch that a member is to reach."""
        return self._models[self._owner[member]].until

    def underway(self) -> dict[str, Ruling]:
        """Every member that is to be trained on, with how far and when it is due."""
        open_models = [model for model in self._models.values() if model.lane is not None and not model.failed]
        return {member: self._ruling("resumed", member, model) for model in open_models for member in model.members}

    def begin(self) -> list[Ruling]:
        """The first decisions."""
        return self._fill()

    def offer(self, member: str, epoch: int, value: float | None) -> list[Ruling]:
        """A member has finished an epoch, with this value of what decides."""
        model = self._models[self._owner[member]]
        self._values[member, epoch] = value if value is not None and math.isfinite(value) else None
        model.epochs[member] = epoch
        self._note_known(model.lane)
        if epoch >= self._terms.epochs and epoch >= model.until:
            return [replace(self._ruling("model finished", member, model), actor="engine", until=epoch)]
        return []

    def fail(self, member: str) -> None:
        """A member has failed or diverged, and with it its model: no result of it counts any more."""
        model = self._models[self._owner[member]]
        if not model.failed:
            model.failed = True
            self._note_known(model.lane)

    def advance(self, told_max: float = math.inf) -> list[Ruling]:
        """Tell the procedure what it can know by now, and give what it decides.

        `told_max` stops after so many results: there a person's order was obeyed in an earlier run.
        """
        rulings = list[Ruling]()
        while self.told < told_max and (lane := self._next()) is not None:
            rulings += self._tell(lane)
        return rulings

    def advance_to(self, model: str) -> list[Ruling]:
        """Tell the procedure of this model next, as an earlier run did that did not keep to virtual time."""
        lane = self._models[model].lane
        if lane is None or not self._is_known(lane):
            raise InternalError(f"the log says that {model} was told, and its result is not known")
        return self._tell(lane)

    def obey(self, order: Order, ancestor: Ancestor | None = None) -> list[Ruling]:
        """Carry out what a person asks; `ancestor` is the state that a warm clone starts from.

        What has become impossible since it was accepted is refused in the log.
        """
        rulings = list(self._obeyed(order, ancestor))
        given = json.loads(order_text(order))
        rulings = [
            replace(ruling, actor=order.actor, note=order.note, order=order.id, command=given) for ruling in rulings
        ]
        return [*rulings, *self._fill()]

    def refuse(self, order: Order, reason: str) -> Ruling:
        """Note that an order that was accepted cannot be carried out any more."""
        given, why = json.loads(order_text(order)), {"reason": reason}
        return replace(
            self._plain("refused"), actor=order.actor, note=order.note, order=order.id, command=given, why=why
        )

    def _obeyed(self, order: Order, ancestor: Ancestor | None) -> Iterator[Ruling]:
        match order.command:
            case Add(config, until):
                yield from self._add(config, until, own=False)
            case Clone(model, changes, warm, _, _, until):
                config = changed(self._model(model).config, changes)
                yield from self._add(config, until, own=False, ancestor=ancestor if warm else None)
            case Stop(model):
                yield from self._stop(self._model(model))
            case Resume(model, until):
                yield from self._send_on(self._model(model), "resumed", until or self._terms.epochs)
            case Extend(model, epochs):
                yield from self._send_on(self._model(model), "extended", self._model(model).until + epochs)
            case Finish():
                self._finishing = True
                for model in self._models.values():
                    if model.lane is not None:
                        self._drop(model)
                        yield from self._each("paused", model)
                yield self._plain("finish")
            case Note(text, member):
                yield replace(self._plain("note"), model=member, why={"text": text})

    def _stop(self, model: _Model) -> Iterator[Ruling]:
        if model.failed or (model.lane is None and model.epoch >= self._terms.epochs):
            yield self._refused(model, "it had ended by then")
            return
        if model.lane is not None:
            self._drop(model)
        model.stopped, model.goal = True, 0
        self._procedure.censor(model.members[0], model.epoch)
        yield from self._each("stopped", model)

    def _send_on(self, model: _Model, kind: RulingKind, until: int) -> Iterator[Ruling]:
        """Train a model on because a person wants it, whatever the procedure says."""
        if model.failed:
            yield self._refused(model, "it has failed")
            return
        model.stopped, model.goal = False, max(model.goal, until)
        if model.lane is None:
            self._open(model, model.goal, own=False)
        yield from self._each(kind, model)

    def _fill(self) -> list[Ruling]:
        """Let the procedure use the lanes that are free."""
        rulings, refusals = list[Ruling](), 0
        while self._may_ask and not self._is_full:
            decision = self._procedure.ask(self.fresh)
            if decision is None:
                self._waits = True
                break
            asked = self._asked(decision)
            refusals = 0 if asked else refusals + 1
            if refusals > _REFUSALS_MAX:
                raise InternalError(f"the procedure {self._actor} asks again and again for {decision.command}")
            rulings += asked
        return rulings

    @property
    def _may_ask(self) -> bool:
        return not (self._finishing or self._waits) and len(self._models) < self._models_max

    @property
    def _is_full(self) -> bool:
        lanes = self._procedure.lanes
        return lanes is not None and self._own_lanes >= lanes

    def _asked(self, decision: Decision) -> list[Ruling]:
        """Carry out what the procedure asks for; nothing if it may not have it."""
        command, why = decision.command, dict(decision.why)
        match command:
            case Add(config, until):
                return self._add(config, until, own=True, why=why)
            case Clone(model, changes, _, optimizer, at, until):
                if at is None:
                    raise InternalError(f"the procedure {self._actor} clones {model} at no epoch")
                config = changed(self._model(model).config, changes)
                fork = {"model": model, "at": at, "optimizer": optimizer}
                return self._add(config, until, own=True, why={**why, "parent": model, "at": at}, fork=fork)
            case Resume(name, until):
                model = self._model(name)
                if model.stopped or model.failed or model.lane is not None:
                    self._procedure.censor(name, model.epoch)
                    return []
                self._open(model, until or self._terms.epochs, own=True)
                return self._each("resumed", model, why)
            case Stop():
                raise InternalError(f"the procedure {self._actor} asks for a stop: only `tell` may give one")

    def _add(
        self,
        config: Mapping[str, Any],
        until: int | None,
        *,
        own: bool,
        why: Mapping[str, Any] | None = None,
        ancestor: Ancestor | None = None,
        fork: Mapping[str, Any] | None = None,
    ) -> list[Ruling]:
        name = model_id(len(self._models))
        members = (name, *(f"{name}-r{repeat + 1}" for repeat in range(1, self._repeats)))
        start = _finished(ancestor) if ancestor else fork["at"] if fork else 0
        model = self._models[name] = _Model(config, members, start)
        self._owner |= dict.fromkeys(members, name)
        goal = max(until or self._terms.epochs, start + 1)
        model.goal = 0 if own else goal
        self._open(model, goal, own=own)
        rulings = list[Ruling]()
        for repeat, member in enumerate(members):
            described = Member(config, repeat, ancestor).as_json()
            if fork:
                described["ancestor"] = {**fork, "model": self._model(fork["model"]).members[repeat]}
            ruling = self._ruling("cloned" if ancestor or fork else "added", member, model, why or {})
            rulings.append(replace(ruling, member=described))
        return rulings

    def _open(self, model: _Model, until: int, *, own: bool) -> None:
        """Open a lane that ends when the model has come to the end of epoch `until`."""
        self._count += 1
        lane = _Lane(self._clock + max(0, until - model.place), self._count, model.members[0], until, own)
        model.lane = lane
        self._own_lanes += own
        if self._in_order:
            heapq.heappush(self._lanes, (lane.due, lane.number, lane))
        self._note_known(lane)

    def _drop(self, model: _Model) -> None:
        """Close a lane before its end: no result will come."""
        assert model.lane is not None, "only a lane that is open is dropped"
        model.lane.dropped = True
        self._own_lanes -= model.lane.own
        model.lane = None
        self._waits = False

    def _next(self) -> _Lane | None:
        """The lane whose end is told next, if it is known."""
        if not self._in_order:
            while self._known and self._known[0].dropped:
                self._known.popleft()
            return self._known[0] if self._known else None
        while self._lanes and self._lanes[0][2].dropped:
            heapq.heappop(self._lanes)
        return self._lanes[0][2] if self._lanes and self._is_known(self._lanes[0][2]) else None

    def _note_known(self, lane: _Lane | None) -> None:
        if not self._in_order and lane is not None and self._is_known(lane):
            self._known.append(lane)

    def _is_known(self, lane: _Lane) -> bool:
        model = self._models[lane.model]
        return model.failed or all((member, lane.until) in self._values for member in model.members)

    def _tell(self, lane: _Lane) -> list[Ruling]:
        model = self._models[lane.model]
        self._drop(model)
        self._clock, model.place = max(self._clock, lane.due), lane.until
        self.told += 1
        value, stderr = self._summary(model, lane.until)
        stops = dict[str, Mapping[str, Any]]()
        for decision in self._procedure.tell(Result(lane.model, model.config, lane.until, value, stderr)):
            if isinstance(decision.command, Stop):
                stops[decision.command.model] = decision.why
        rulings = [] if self.keeps_virtual_time else [self._told(lane)]
        return [*rulings, *self._cut_short(stops, lane.model), *self._fill(), *self._at_rest(model, value, stops)]

    def _cut_short(self, stops: Mapping[str, Mapping[str, Any]], told: str) -> Iterator[Ruling]:
        """Pause other models that the procedure stops; those at rest stay so, for a reason that is known now."""
        for name, why in stops.items():
            model = self._model(name)
            if name == told or model.stopped or model.failed or (model.lane is not None and not model.lane.own):
                continue
            if model.lane is not None:
                self._drop(model)
            yield from self._each("paused", model, why)

    def _at_rest(self, model: _Model, value: float | None, stops: Mapping[str, Mapping[str, Any]]) -> Iterator[Ruling]:
        """What becomes of a model whose lane has ended, if the procedure does not go on with it at once."""
        if model.lane is not None or model.failed:
            return
        if model.goal > model.place:
            self._open(model, model.goal, own=False)
            return
        if model.place < self._terms.epochs:
            why = stops.get(model.members[0]) or {"epochs": model.place, "value": value}
            yield from self._each("paused", model, why)

    def _summary(self, model: _Model, epoch: int) -> tuple[float | None, float | None]:
        """The mean over the repeats and its standard error; a model of which one repeat failed has failed."""
        if model.failed:
            return None, None
        values = [self._values[member, epoch] for member in model.members]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return None, None
        spread = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
        return math.fsum(found) / len(found), spread

    def _model(self, name: str) -> _Model:
        return self._models[self._owner[name]]

    def _each(self, kind: RulingKind, model: _Model, why: Mapping[str, Any] | None = None) -> list[Ruling]:
        return [self._ruling(kind, member, model, why or {}) for member in model.members]

    def _ruling(self, kind: RulingKind, member: str, model: _Model, why: Mapping[str, Any] | None = None) -> Ruling:
        due = model.lane.due if model.lane else 0.0
        epoch = model.epochs.get(member, model.place)
        return Ruling(kind, self._actor, member, epoch, model.until, dict(why or {}), told=self.told, due=due)

    def _refused(self, model: _Model, reason: str) -> Ruling:
        return self._ruling("refused", model.members[0], model, {"reason": reason})

    def _told(self, lane: _Lane) -> Ruling:
        return Ruling("told", self._actor, lane.model, lane.until, told=self.told)

    def _plain(self, kind: RulingKind) -> Ruling:
        return Ruling(kind, self._actor, told=self.told)


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config with other values; `optimizer.lr` names a value inside a nested mapping."""
    merged = dict(config)
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        nested = merged.get(outer)
        if name not in merged and inner and isinstance(nested, Mapping):
            merged[outer] = changed(nested, {inner: value})
        else:
            merged[name] = value
    return merged


def _finished(ancestor: Ancestor) -> int:
    """The epochs that the ancestor had finished."""
    return ancestor.epoch - 1
