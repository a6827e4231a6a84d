"""Steering a run: what is decided becomes work for the executor, and what happens becomes results to decide by."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.commands import Clone, Command
from cerebro.control.orders import parse_order
from cerebro.control.steering import Steering
from cerebro.errors import SpecError, StoreError
from cerebro.execution.drift import Drift, Verdict
from cerebro.execution.engine import BytesHandle
from cerebro.execution.executor import Partials, Step
from cerebro.execution.meter import Meter
from cerebro.execution.resume import Finish, Resumption
from cerebro.messages import Event, Ruling, Unit, UnitFailed, UnitFinished
from cerebro.operators.hop import Goal, chain
from cerebro.optimizer.given import Work
from cerebro.plan.cost import Profile
from cerebro.plan.forking import Forking
from cerebro.plan.fusing import Fusing
from cerebro.plan.physical import Hop
from cerebro.plan.program import Ancestor, member_of
from cerebro.plan.workload import Assign, Chain, Change, Done, Hold
from cerebro.quantities import count_text
from cerebro.session.declaration import Declaration
from cerebro.session.members import member_in, start_of
from cerebro.storage.catalog import CatalogReader, UnitRow
from cerebro.storage.inbox import Inbox
from cerebro.storage.store import ExperimentFolder

_HOLDING = ("paused", "stopped")


@dataclass
class RunSteering:
    """The steering of one run: knows the experiment's folder, where orders come in and ancestors' states lie."""

    steering: Steering
    declaration: Declaration
    folder: ExperimentFolder
    finish: Finish
    profiles: Mapping[str, Profile]
    """Of the models that were piloted."""
    configs: dict[str, Mapping[str, Any]]
    """Of all models there are, by id."""
    repeats: dict[str, int]
    """Which of the seeds of its config each model is."""
    past: Mapping[str, Done]
    """How far the models had come when this run began."""
    earlier: list[tuple[Unit, Partials]]
    """The visits of earlier runs, with their metric partials."""
    starts: dict[str, bytes]
    """What new clones start from."""
    backlog: list[Ruling]
    """What was decided in earlier runs and is not in the log."""
    meter: Meter = field(default_factory=lambda: Meter(None, 1, 1))
    """Adds up what the run spends."""
    settle: Callable[[], None] = lambda: None
    """Waits until all that has happened is durable."""
    obeyed: set[str] = field(default_factory=set[str])
    """The orders that were carried out."""
    fusing: Fusing = field(default_factory=Fusing)
    """Which models make their visits in one pass."""
    forking: Forking = field(default_factory=Forking)
    """Which models are trained as one in their first epochs."""
    drift: Drift = field(default_factory=lambda: Drift(()))
    """Sees whether passes pay."""
    _likest: dict[str, str] = field(default_factory=dict[str, str])
    """Of models that were not piloted, the one that was whose config is most like theirs."""
    _planned: Fusing = field(default_factory=Fusing)
    _apart: frozenset[str] = frozenset()
    """The kinds of models whose passes, though planned, did not pay."""
    _born: dict[str, Done] = field(default_factory=dict[str, Done])
    """Where the models of this run began."""
    _train_values: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def over(self) -> bool:
        """Whether nothing is under way, and nobody asks for more."""
        return self.steering.over and not self._orders()

    def handle(self, events: Sequence[Event]) -> list[Step]:
        """Take in what happened, and what people have asked for by now."""
        rulings, self.backlog = self.backlog, []
        replanned = list[Step]()
        for event in events:
            self.meter.happened(event)
            match event:
                case UnitFinished():
                    rulings += self._finished(event)
                    replanned += self._replanned(event)
                case UnitFailed(unit):
                    self.steering.fail(unit.model)
                case _:
                    pass
        if events:
            rulings += self.steering.advance()
        steps = [*replanned, *(self._step(ruling) for ruling in rulings)]
        for name, text in self._orders():
            steps += self._obey(name, text)
        return steps

    def left_text(self) -> str:
        """What was decided and not done: `7 models are not through, 31 epochs are left of them`."""
        left = [self.steering.until(model) - ruling.epoch for model, ruling in self.steering.underway().items()]
        left = [epochs for epochs in left if epochs > 0]
        more = "" if not self.steering.has_lanes else ", and the search would go on"
        verb = "is" if len(left) == 1 else "are"
        return (
            f"{count_text(len(left), 'model')} {verb} not through, {count_text(sum(left), 'epoch')} left of them{more}"
        )

    def is_kept(self, unit: Unit) -> bool:
        """Whether the state after a unit may yet be cloned by the procedure, whatever comes after it."""
        ends = unit.kind == "train" and self.finish.ends_split(unit)
        return ends and self.steering.is_fork_point(unit.model, unit.epoch)

    def work(self) -> Work:
        """All that is to be trained as things are."""
        underway = {model: ruling for model, ruling in self.steering.underway().items() if model in self.configs}
        goals = {model: Goal(self.steering.until(model), ruling.due) for model, ruling in underway.items()}
        done = {model: self.past[model] if model in self.past else self._born[model] for model in underway}
        left = [model for model, goal in goals.items() if done[model].epoch <= goal.until]
        return Work(
            {model: self.configs[model] for model in left},
            {model: self.profile(model) for model in left},
            {model: goals[model] for model in left},
            {model: done[model] for model in left if done[model] != Done()},
            {model: self.repeats[model] for model in left},
        )

    def _finished(self, event: UnitFinished) -> list[Ruling]:
        """The end of an epoch is a result."""
        unit, (split, metric) = event.unit, self.declaration.spec.objective
        if unit.kind == split and self.finish.ends_split(unit):
            self._train_values[unit.model] = event.values[metric]
        if not self.finish.ends_epoch(unit):
            return []
        return self.steering.offer(unit.model, unit.epoch, self._train_values.pop(unit.model, None))

    def _replanned(self, event: UnitFinished) -> list[Step]:
        """What follows from what a visit took: models whose passes do not pay go alone, with the same bits."""
        unit = event.unit
        if unit.kind != "train" or not self.drift.kinds:
            return []
        profile = self.profile(unit.model)
        alone = profile.train_seconds(self.declaration.train.scan.train_rows[unit.shard])
        verdict = self.drift.heard(event, profile.signature, alone)
        return [] if verdict is None else [self._going_on(verdict, profile.architecture)]

    def _going_on(self, verdict: Verdict, architecture: str) -> Step:
        """Let all models of a kind go together, or each alone, from their next visit on."""
        self._apart = self._apart | {verdict.kind} if verdict.way == "alone" else self._apart - {verdict.kind}
        self.fusing = self._planned.without(self._apart)
        underway = self.steering.underway().items()
        models = {m: ruling for m, ruling in underway if self.profile(m).signature == verdict.kind}
        why = {"models": len(models), "architecture": architecture, "way": verdict.way, "together": verdict.together}
        why |= {} if verdict.alone is None else {"alone": verdict.alone}
        changes = (
            Assign(self._chain(model, Goal(self.steering.until(model), ruling.due)), self._done(model))
            for model, ruling in models.items()
        )
        return Step(Ruling("replanned", "engine", why=why, told=None), others=tuple(changes))

    def _orders(self) -> list[tuple[str, str]]:
        """What people have asked for and nobody has looked at: the id and the text of each order."""
        return [(name, text) for name, text in Inbox(self.folder.path).pending() if name not in self.obeyed]

    def _obey(self, name: str, text: str) -> list[Step]:
        self.obeyed.add(name)
        try:
            order = parse_order(text)
        except SpecError as error:  # it was checked before it was put there: the file is damaged
            why = {"reason": f"the order is damaged, give it again: {error}"}
            return [Step(Ruling("refused", "engine", why=why, order=name, told=self.steering.told))]
        ancestor = None
        try:
            check_models(order.command, self.configs)
            if isinstance(order.command, Clone) and order.command.warm:
                ancestor = self._newest_state(order.command.model, order.command.optimizer)
        except StoreError as error:
            return [Step(self.steering.refuse(order, str(error)))]
        return [self._step(ruling) for ruling in self.steering.obey(order, ancestor)]

    def _step(self, ruling: Ruling) -> Step:
        """What has to be done for a ruling."""
        if ruling.member is not None:
            return self._begin(ruling)
        return Step(ruling, self._change(ruling))

    def _change(self, ruling: Ruling) -> Change | None:
        if ruling.model is None:
            return None
        if ruling.kind in _HOLDING:
            return Hold(ruling.model)
        if ruling.kind in ("resumed", "extended"):
            assert ruling.until is not None, "it is resumed to an epoch"
            return Assign(self._chain(ruling.model, Goal(ruling.until, ruling.due)), self._done(ruling.model))
        return None

    def _begin(self, ruling: Ruling) -> Step:
        """A new model, and the state that it starts from if it is a warm clone."""
        model, goal = ruling.model, Goal(ruling.until or 0, ruling.due)
        assert model is not None, "a new model has a name"
        assert ruling.member is not None, "a new model is described"
        fork = ruling.member["ancestor"]
        if fork is not None and "at" in fork:
            self.settle()
            ancestor = self._state_after(fork["model"], fork["at"], fork["optimizer"])
            member = replace(member_of({**ruling.member, "ancestor": None}), ancestor=ancestor)
        else:
            member = member_of(ruling.member)
        ruling = replace(ruling, member=member.as_json())
        self.configs[model], self._born[model] = member.config, start_of(member)
        self.repeats[model] = member.repeat
        if member.ancestor is None:
            return Step(ruling, Assign(self._chain(model, goal)), member)
        state = self.starts[model] = self.folder.checkpoints.read(member.ancestor.state_digest)
        with closing(self.folder.reader()) as reader:
            earlier = tuple(inherited(model, member.ancestor, reader))
        assign = Assign(self._chain(model, goal), start_of(member))
        return Step(ruling, assign, member, BytesHandle(state), earlier)

    def in_groups(self, steps: Sequence[Step], hop: Hop) -> list[Step]:
        """Let models go together from here on, also those of steps that were decided before the plan was made."""
        self.fusing, self.forking = hop.fusing, hop.forking
        if hop.forking == Forking():  # what models share there has no cost of its own
            self._planned = hop.fusing
            self.drift = Drift({s for s, fused in hop.fusing.by_signature.items() if not fused.is_stacked})
        return [replace(step, change=self._grouped(step.change)) for step in steps]

    def _grouped(self, change: Change | None) -> Change | None:
        if not isinstance(change, Assign):
            return change
        return replace(change, chain=self._chain(change.chain.model, Goal(change.chain.epochs, change.chain.due)))

    def _chain(self, model: str, goal: Goal) -> Chain:
        profile = self.profile(model)
        alone = chain(self.declaration.train, model, profile, goal)
        together = self.fusing.chain(alone, profile, self.repeats[model])
        return self.forking.chain(together, profile, self.configs[model], self.repeats[model])

    def inexact(self, model: str) -> dict[str, Any] | None:
        """For the log, how a model is computed, where it may get other bits than the reference gives."""
        return self.fusing.inexact(model, self.profile(model))

    def profile(self, model: str) -> Profile:
        """What was measured of a model; of one that was not piloted, of the one whose config is most like its own."""
        if model not in self.profiles and model not in self._likest:
            known = {other: self.configs[other] for other in self.profiles}
            self._likest[model] = likest(self.configs[model], known)
        return self.profiles[self._likest.get(model, model)]

    def _done(self, model: str) -> Done:
        """Where a model goes on that this run has not seen yet; one that it has seen stays where it is."""
        return self.past.get(model, Done())

    def _newest_state(self, model: str, optimizer: Any) -> Ancestor:
        """The newest durable state of a model.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        self.settle()
        with closing(self.folder.reader()) as reader:
            row = reader.last_checkpoints().get(model)
            if row is None:
                raise StoreError(f"{model} has no durable state yet")
            self.folder.checkpoints.read(row["state_digest"])
            return self._ancestor(reader, row, optimizer)

    def _state_after(self, model: str, epoch: int, optimizer: Any) -> Ancestor:
        """The state of a model at the end of an epoch."""
        with closing(self.folder.reader()) as reader:
            rows = [row for row in reader.rows("checkpoints", model) if row["epoch"] == epoch]
            last = max(rows, key=lambda row: row["position"], default=None)
            if last is None or last["position"] != self.finish.train_visits - 1:
                raise StoreError(f"the state of {model} after epoch {epoch} is not kept: it cannot be cloned")
            return self._ancestor(reader, last, optimizer)

    def _ancestor(self, reader: CatalogReader, row: Mapping[str, Any], optimizer: Any) -> Ancestor:
        epoch, position = row["epoch"], row["position"]
        if position == self.finish.train_visits - 1:
            return Ancestor(row["model"], row["state_digest"], optimizer, epoch + 1)
        units = [visit.unit for visit in _visits(reader, row["model"], epoch)]
        own = member_in(next(each for each in reader.models() if each["model"] == row["model"])).ancestor
        before = own.train_shards if own is not None and own.epoch == epoch else ()
        visited = (*before, *(unit.shard for unit in units if unit.position <= position))
        return Ancestor(row["model"], row["state_digest"], optimizer, epoch, visited)


def earlier_visits(reader: CatalogReader, past: Mapping[str, Resumption]) -> list[tuple[Unit, Partials]]:
    """What the models have behind them, clones with what they inherited, with their metric partials."""
    found = list[tuple[Unit, Partials]]()
    for row in reader.models():
        ancestor = member_in(row).ancestor
        found += inherited(row["model"], ancestor, reader) if ancestor else ()
        if row["model"] in past:
            found += [(visit.unit, visit.partials) for visit in past[row["model"]].kept]
    return found


def inherited(model: str, ancestor: Ancestor, reader: CatalogReader) -> Iterator[tuple[Unit, Partials]]:
    """The visits that a clone has behind it in its first epoch, with their metric partials, as if they were its own."""
    for row in _visits(reader, ancestor.model, ancestor.epoch)[: len(ancestor.train_shards)]:
        yield replace(row.unit, model=model), row.partials


def _visits(reader: CatalogReader, model: str, epoch: int) -> list[UnitRow]:
    return [row for row in reader.units(model) if row.unit.epoch == epoch and row.unit.kind == "train"]


def likest(config: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str:
    """The known model whose config shares most values with `config`."""
    return max(known, key=lambda model: _likeness(config, known[model]))


def _likeness(config: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """How many values two configs share."""
    return sum(name in other and other[name] == value for name, value in config.items())


def check_models(command: Command, configs: Mapping[str, Any]) -> None:
    """Check that a command speaks of a model that there is.

    Raises:
        StoreError: it does not.
    """
    model = getattr(command, "model", None)
    if model is not None and model not in configs:
        raise StoreError(f"there is no model {model}")
