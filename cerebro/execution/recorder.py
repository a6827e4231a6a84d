"""Making what happened durable, behind the critical path.

The executor hands over each event and goes on; a thread writes. All that happened while it was writing is written
together: first the states, then the rows, so that every row that speaks of a state has it, or a later one. The thread
may be behind by a few units only. That bounds what a kill costs; since units are pure, it never costs more than time.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cerebro.execution.engine import StateHandle
from cerebro.execution.resume import Finish
from cerebro.ids import digest, digest_bytes, unit_id
from cerebro.messages import Event, Ruling, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.plan.program import member_of
from cerebro.storage.catalog import Catalog, UnitRow
from cerebro.storage.checkpoints import Checkpoints
from cerebro.storage.crash_points import crash_point


@dataclass(frozen=True)
class Lineage:
    """What all units of a run have in common, and each model's own part: what unit ids are made of."""

    plan_id: str
    fingerprint: str
    members: dict[str, str]
    """The digest of what makes each model the one it is: config, repeat, ancestor."""
    train_shards: tuple[str, ...]
    """The digest of each train shard."""
    valid_shards: tuple[str, ...]

    def unit_id(self, unit: Unit, parent_digest: str | None, kernel: str = "") -> str:
        """The id of a unit that starts from the state with `parent_digest` (None: the initial one)."""
        inexact = {"kernel": kernel} if kernel else {}
        shards = self.train_shards if unit.kind == "train" else self.valid_shards
        return unit_id(
            {
                "plan": self.plan_id,
                "member": self.members[unit.model],
                "model": unit.model,
                "kind": unit.kind,
                "epoch": unit.epoch,
                "position": unit.position,
                "shard": shards[unit.shard],
                "parent": parent_digest,
                "fingerprint": self.fingerprint,
                **inexact,
            }
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run of the experiment this is, and when its engine opened, in seconds since 1970."""

    run: int
    opened_at: float


@dataclass(frozen=True, slots=True)
class Newcomers:
    """What models have in common that join while an experiment runs."""

    plan_id: str
    badge: str
    inexact: Callable[[str], Mapping[str, Any] | None] = lambda model: None
    """For the log, of a model that may get other bits than the reference gives: how (an `inexact` event)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What waits to be written: an event, and the state that it ended in if it is the end of a train unit."""

    event: Event | Ruling
    state: StateHandle | None
    is_kept: bool = False
    """Whether the state is to be kept beside the newest one."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """A state of a model, and the train visit that it came about in."""

    model: str
    epoch: int
    position: int
    digest: str
    view: memoryview


@dataclass(slots=True)
class _Change:
    """What events of one moment change of a model's row, together."""

    seconds: float = 0.0
    fields: dict[str, Any] = field(default_factory=dict[str, Any])


_Place = tuple[str, int, int]
"""A model, an epoch, and a position of a train visit."""

_STATUSES = {"paused": "paused", "stopped": "stopped", "model finished": "finished"}
"""What some rulings make of a model; others let it go on."""
_LETS_GO_ON = ("added", "cloned", "resumed", "extended")

_KEPT_MAX = 2
"""States of a model that are kept beside its newest: one that clones may be made of, and the next one."""

_REST_SECONDS = 0.25
"""Where units are shorter than this, those of several workers are made durable together: a commit costs a sync."""


class Recorder:
    """Writes the catalog and the checkpoints of one run, in the order in which things happened."""

    def __init__(
        self,
        catalog: Catalog,
        checkpoints: Checkpoints,
        lineage: Lineage,
        finish: Finish,
        origin: Origin,
        digests: Mapping[str, str],
        behind_max: int = 1,
        newcomers: Newcomers | None = None,
        is_kept: Callable[[Unit], bool] = lambda unit: False,
        forget_orders: Callable[[Collection[str]], None] = lambda ids: None,
    ) -> None:
        """Begin to record; `digests` are the present state digests of models that were trained before.

        States that `is_kept` names are written and kept beside the newest, two of each model. When an order is
        durable, it is handed to `forget_orders`.

        At most `behind_max` finished units wait for the disk, where room is made for them: so many are run again after
        a kill, beside those that were running.
        """
        self._catalog, self._checkpoints, self._lineage, self._finish = catalog, checkpoints, lineage, finish
        self._origin, self._digests, self._behind_max = origin, dict(digests), behind_max
        self._newcomers, self._is_kept, self._forget_orders = newcomers, is_kept, forget_orders
        self._kept = defaultdict[str, deque[int]](lambda: deque(maxlen=_KEPT_MAX))
        """The epochs at whose end a state of each model is kept; the writing thread's own."""
        self._entries: deque[_Entry] = deque()
        self._pass: list[_Entry] = []
        """A pass that is being told of: it becomes durable as a whole, so that its models stay together; one unit."""
        self._unwritten, self._submitted_at = 0, 0.0
        self._behind: deque[tuple[Future[None], int]] = deque()
        """Writes that are not known to be durable, oldest first, with their finished units."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._last: Future[None] | None = None

    def record(self, event: Event | Ruling, state: StateHandle | None) -> None:
        """Take an event over; waits only where no room was made for it.

        Raises:
            Exception: whatever stopped the writing of an earlier one, such as a full disk.
        """
        is_unit = isinstance(event, UnitFinished)
        self._pass.append(_Entry(event, state, is_unit and self._is_kept(event.unit)))
        if is_unit and event.more:
            return
        self._entries.extend(self._pass)
        self._pass.clear()
        self._unwritten += is_unit
        rested = time.monotonic() - self._submitted_at >= _REST_SECONDS
        if not is_unit or rested or self._unwritten >= self._behind_max:
            self._submit()
        self._catch_up()

    def make_room(self, units: int) -> None:
        """Wait until so many units more may be finished and not yet durable.

        Raises:
            Exception: as `record`.
        """
        if self._units_behind() + units > self._behind_max and self._unwritten:
            self._submit()
        while self._behind and self._units_behind() + units > self._behind_max:
            self._behind.popleft()[0].result()

    def settle(self) -> None:
        """Begin to write what waits.

        Raises:
            Exception: as `record`.
        """
        if self._entries:
            self._submit()
        self._catch_up()

    def written(self) -> Callable[[], bool]:
        """Begin to write what waits; gives the question whether it is durable by now."""
        self._submit()
        last = self._last
        return lambda: last is not None and last.done() and last.exception() is None

    def finish_writing(self) -> None:
        """Wait until all that was recorded so far is durable.

        Raises:
            Exception: as `record`.
        """
        self._submit()
        while self._behind:
            self._behind.popleft()[0].result()

    def close(self) -> None:
        """Wait until all is durable.

        Raises:
            Exception: whatever stopped the writing.
        """
        self._submit()
        self._thread.shutdown()
        assert self._last is not None
        try:
            self._last.result()
        finally:
            self._checkpoints.delete_spare()

    def _submit(self) -> None:
        self._last = self._thread.submit(self._write_after, self._last)
        self._behind.append((self._last, self._unwritten))
        self._unwritten, self._submitted_at = 0, time.monotonic()

    def _catch_up(self) -> None:
        """Hear of finished writes; wait for the oldest while too many finished units are not durable."""
        self.make_room(0)
        while self._behind and self._behind[0][0].done():
            self._behind.popleft()[0].result()

    def _units_behind(self) -> int:
        return self._unwritten + sum(units for _, units in self._behind)

    def _write_after(self, before: "Future[None] | None") -> None:
        """Write all that waits, unless what came before could not be written: nothing may be missing in between."""
        entries = list[_Entry]()
        while self._entries:
            entries.append(self._entries.popleft())
        try:
            if before is not None:
                before.result()
            if entries:
                self._write(entries)
        finally:
            for entry in entries:
                if entry.state is not None:
                    entry.state.release()

    def _write(self, entries: Sequence[_Entry]) -> None:
        """Write what happened together: first the states that it ended in, then all rows in one transaction.

        Of a model that came through several units only the newest state is written, and those that are to be kept.
        All its rows become durable at once, so that there never is one whose state, or a later one, is not durable.
        """
        crash_point("record-begun")
        for entry in entries:
            if entry.is_kept and isinstance(entry.event, UnitFinished):
                self._kept[entry.event.unit.model].append(entry.event.unit.epoch)
        trained = [_trained(entry.event, entry.state.view()) for entry in entries if entry.state is not None]
        last = {state.model: state for state in trained}
        written = [state for state in trained if state is last[state.model] or self._is_fork_point(state)]
        self._checkpoints.write_all({state.digest: state.view for state in written})
        with self._catalog.transaction():
            self._note_events([entry.event for entry in entries], {_place(state): state.digest for state in trained})
            unneeded = self._note_checkpoints(written)
            crash_point("record-in-transaction")
        crash_point("record-committed")
        if orders := {entry.event.order for entry in entries if isinstance(entry.event, Ruling) and entry.event.order}:
            self._forget_orders(orders)
        for old in unneeded:
            self._checkpoints.spare(old)
        crash_point("record-collected")

    def _is_fork_point(self, state: _Trained) -> bool:
        return state.position == self._finish.train_visits - 1 and state.epoch in self._kept.get(state.model, ())

    def _note_events(self, events: Sequence[Event | Ruling], digests: Mapping[_Place, str]) -> None:
        """The rows of events in order; what they change of a model is one change of its row."""
        changes = defaultdict[str, _Change](_Change)
        for event in events:
            self._note(event, digests, changes)
        for model, change in changes.items():
            self._catalog.add_seconds(model, change.seconds, **change.fields)

    def _note(self, event: Event | Ruling, digests: Mapping[_Place, str], changes: "defaultdict[str, _Change]") -> None:
        match event:
            case UnitFinished(Unit(model, "train", epoch, position)):
                self._note_unit(event, digests[model, epoch, position], changes[model])
            case UnitFinished(unit):
                self._note_unit(event, None, changes[unit.model])
            case Ruling():
                self._note_ruling(event, changes)
            case UnitFailed(unit, worker, status, error, traceback):
                changes[unit.model].fields |= {"status": status, "error": error, "traceback": traceback}
                self._log(f"model {status}", {"model": unit.model, "worker": worker, "error": error})
            case WorkerJoined(worker, fingerprint):
                self._log("worker joined", {"worker": worker, "fingerprint": dict(fingerprint)})
            case WorkerLost(worker, cause, unit):
                self._log("worker lost", {"worker": worker, "cause": cause, "model": unit.model if unit else None})
            case _:
                raise AssertionError(f"not for the log: {event}")

    def _note_unit(self, event: UnitFinished, trained: str | None, change: _Change) -> None:
        """The row of a unit; `trained` is the digest of the state that a train unit ended in."""
        unit = event.unit
        parent = self._digests.get(unit.model)
        state_digest = trained or parent
        assert state_digest is not None, "a model is measured after it was trained"
        self._catalog.add_unit(self._row(event, parent, state_digest))
        self._digests[unit.model] = state_digest
        if self._finish.ends_split(unit):
            self._catalog.add_metrics(unit.model, unit.epoch, unit.kind, event.values)
        change.seconds += event.seconds
        change.fields |= self._progress(unit, state_digest)

    def _progress(self, unit: Unit, state_digest: str) -> dict[str, Any]:
        """What the end of a unit changes of its model."""
        fields = dict[str, Any](status="training", state_digest=state_digest)
        if self._finish.ends_epoch(unit):
            fields["epochs"] = unit.epoch
        return fields

    def _row(self, event: UnitFinished, parent: str | None, state_digest: str) -> UnitRow:
        return UnitRow(
            unit_id=self._lineage.unit_id(event.unit, parent, event.kernel),
            unit=event.unit,
            parent_digest=parent,
            state_digest=state_digest,
            run=self._origin.run,
            worker=event.worker,
            started=self._origin.opened_at + event.started,
            seconds=event.seconds,
            rows=event.rows,
            partials=event.partials,
            moved_bytes=event.moved_bytes,
            peak_bytes=event.peak_bytes,
            kernel=event.kernel,
            read_bytes=event.read_bytes,
        )

    def _note_ruling(self, ruling: Ruling, changes: "defaultdict[str, _Change]") -> None:
        """What was decided: in the log, as a command if a person gave an order, and in the row of its model."""
        body = {
            "model": ruling.model, "epoch": ruling.epoch, "until": ruling.until, "why": dict(ruling.why),
            "note": ruling.note, "order": ruling.order, "told": ruling.told, "member": ruling.member,
        }  # fmt: skip
        if ruling.command is not None and not self._catalog.has_command(ruling.order):
            self._catalog.add_command(ruling.actor, ruling.command["command"], {**ruling.command, "told": ruling.told})
        if ruling.member is not None:
            self._note_newcomer(ruling)
        self._catalog.add_event(
            ruling.actor, ruling.kind, {name: value for name, value in body.items() if value not in (None, "", {})}
        )
        if ruling.model is not None and ruling.kind in (*_STATUSES, *_LETS_GO_ON):
            begun = "training" if self._digests.get(ruling.model) else "waiting"
            status = _STATUSES.get(ruling.kind, begun)
            changes[ruling.model].fields |= {"until": ruling.until, "status": status}

    def _note_newcomer(self, ruling: Ruling) -> None:
        assert self._newcomers is not None, "models may join this run"
        assert ruling.model is not None, "a new model has a name"
        member = member_of(ruling.member or {})
        self._lineage.members[ruling.model] = digest(member.as_json())
        self._catalog.add_model(ruling.model, member.as_json(), self._newcomers.plan_id, self._newcomers.badge)
        if (inexact := self._newcomers.inexact(ruling.model)) is not None:
            self._log("inexact", inexact)
        if member.ancestor is not None:
            self._digests.setdefault(ruling.model, member.ancestor.state_digest)

    def _note_checkpoints(self, written: Sequence[_Trained]) -> list[str]:
        """The rows of states that are durable; gives the older ones that no model needs any more."""
        for state in written:
            self._catalog.add_checkpoint(*_place(state), state.digest, len(state.view))
        dropped = set[str]()
        for state in written:
            kept = [(epoch, self._finish.train_visits - 1) for epoch in self._kept.get(state.model, ())]
            dropped.update(self._catalog.drop_older_checkpoints(*_place(state), kept))
        return sorted(dropped)

    def _log(self, kind: str, body: Mapping[str, Any]) -> None:
        self._catalog.add_event("engine", kind, body)


def _place(state: _Trained) -> _Place:
    return state.model, state.epoch, state.position


def _trained(event: Event | Ruling, view: memoryview) -> _Trained:
    """What a state belongs to: the train unit that ended in it, or the clone that starts from it."""
    match event:
        case UnitFinished(Unit(model, "train", epoch, position)):
            return _Trained(model, epoch, position, digest_bytes(view), view)
        case Ruling(model=str(model), member=dict(member)):
            ancestor = member_of(member).ancestor
            assert ancestor is not None, "only a clone starts from a state"
            return _Trained(model, ancestor.epoch, len(ancestor.train_shards) - 1, ancestor.state_digest, view)
        case _:
            raise AssertionError(f"no state comes with {event}")
