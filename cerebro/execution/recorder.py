"""Making what happened durable, behind the critical path.

The executor hands over each event and goes on; a thread writes. All that happened while it was writing is written
together: first the states, then the rows, so that every row that speaks of a state has it, or a later one. The thread
may be behind by a few units only. That bounds what a kill costs; since units are pure, it never costs more than time.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cerebro.execution.engine import StateHandle
from cerebro.execution.resume import Finish
from cerebro.ids import digest_bytes, unit_id
from cerebro.messages import Event, Unit, UnitFailed, UnitFinished, WorkerJoined, WorkerLost
from cerebro.storage.catalog import Catalog, UnitRow
from cerebro.storage.checkpoints import Checkpoints
from cerebro.storage.crash_points import crash_point


@dataclass(frozen=True)
class Lineage:
    """What all units of a run have in common, and each model's own part: what unit ids are made of."""

    plan_id: str
    fingerprint: str
    configs: Mapping[str, str]
    """The digest of each model's config."""
    repeat: int
    train_shards: tuple[str, ...]
    """The digest of each train shard."""
    valid_shards: tuple[str, ...]

    def unit_id(self, unit: Unit, parent_digest: str | None) -> str:
        """The id of a unit that starts from the state with `parent_digest` (None: the initial one)."""
        shards = self.train_shards if unit.kind == "train" else self.valid_shards
        return unit_id(
            {
                "plan": self.plan_id,
                "config": self.configs[unit.model],
                "model": unit.model,
                "repeat": self.repeat,
                "kind": unit.kind,
                "epoch": unit.epoch,
                "position": unit.position,
                "shard": shards[unit.shard],
                "parent": parent_digest,
                "fingerprint": self.fingerprint,
            }
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run of the experiment this is, and when its engine opened, in seconds since 1970."""

    run: int
    opened_at: float


@dataclass(frozen=True, slots=True)
class _Entry:
    """What waits to be written: an event, and the state that it ended in if it is the end of a train unit."""

    event: Event
    state: StateHandle | None


@dataclass(frozen=True, slots=True)
class _Trained:
    """The newest state of a model."""

    unit: Unit
    digest: str
    view: memoryview


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
    ) -> None:
        """Begin to record; `digests` are the present state digests of models that were trained before.

        At most `behind_max` finished units wait for the disk: so many are run again after a kill, beside those that
        were running.
        """
        self._catalog, self._checkpoints, self._lineage, self._finish = catalog, checkpoints, lineage, finish
        self._origin, self._digests, self._behind_max = origin, dict(digests), behind_max
        self._entries: deque[_Entry] = deque()
        self._unwritten, self._submitted_at = 0, 0.0
        self._behind: deque[tuple[Future[None], int]] = deque()
        """Writes that are not known to be durable, oldest first, with their finished units."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._last: Future[None] | None = None

    def record(self, event: Event, state: StateHandle | None) -> None:
        """Take an event over; waits only where the disk is slower than the workers.

        Raises:
            Exception: whatever stopped the writing of an earlier one, such as a full disk.
        """
        self._entries.append(_Entry(event, state))
        is_unit = isinstance(event, UnitFinished)
        self._unwritten += is_unit
        rested = time.monotonic() - self._submitted_at >= _REST_SECONDS
        if not is_unit or rested or self._unwritten >= self._behind_max:
            self._submit()
        self._catch_up()

    def settle(self) -> None:
        """Begin to write what waits.

        Raises:
            Exception: as `record`.
        """
        if self._entries:
            self._submit()
        self._catch_up()

    def close(self) -> None:
        """Wait until all is durable.

        Raises:
            Exception: whatever stopped the writing.
        """
        self._submit()
        self._thread.shutdown()
        assert self._last is not None
        self._last.result()

    def _submit(self) -> None:
        self._last = self._thread.submit(self._write_after, self._last)
        self._behind.append((self._last, self._unwritten))
        self._unwritten, self._submitted_at = 0, time.monotonic()

    def _catch_up(self) -> None:
        """Hear of finished writes; wait for the oldest while too many finished units are not durable."""
        while self._behind and (self._behind[0][0].done() or self._units_behind() > self._behind_max):
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

        Of a model that came through several units only the newest state is written. All its rows become durable at
        once, so that there never is one whose state, or a later one, is not durable.
        """
        crash_point("record-begun")
        newest, digests = dict[str, _Trained](), dict[Unit, str]()
        for event, view in ((entry.event, entry.state.view()) for entry in entries if entry.state is not None):
            assert isinstance(event, UnitFinished), "a state comes with the end of a unit"
            digests[event.unit] = digest_bytes(view)
            newest[event.unit.model] = _Trained(event.unit, digests[event.unit], view)
        self._checkpoints.write_all({trained.digest: trained.view for trained in newest.values()})
        with self._catalog.transaction():
            for entry in entries:
                self._note(entry.event, digests)
            unneeded = self._note_checkpoints(list(newest.values()))
            crash_point("record-in-transaction")
        crash_point("record-committed")
        for old in unneeded:
            self._checkpoints.remove(old)
        crash_point("record-collected")

    def _note(self, event: Event, digests: Mapping[Unit, str]) -> None:
        match event:
            case UnitFinished():
                self._note_unit(event, digests.get(event.unit))
            case UnitFailed(unit, worker, status, error, traceback):
                self._catalog.set_model(unit.model, status=status, error=error, traceback=traceback)
                self._log(f"model {status}", {"model": unit.model, "worker": worker, "error": error})
            case WorkerJoined(worker, fingerprint):
                self._log("worker joined", {"worker": worker, "fingerprint": dict(fingerprint)})
            case WorkerLost(worker, cause, unit):
                self._log("worker lost", {"worker": worker, "cause": cause, "model": unit.model if unit else None})
            case _:
                raise AssertionError(f"not for the log: {event}")

    def _note_unit(self, event: UnitFinished, trained: str | None) -> None:
        """The row of a unit; `trained` is the digest of the state that a train unit ended in."""
        model = event.unit.model
        parent = self._digests.get(model)
        state_digest = trained or parent
        assert state_digest is not None, "a model is measured after it was trained"
        self._catalog.add_unit(self._row(event, parent, state_digest))
        self._catalog.add_seconds(model, event.seconds)
        self._note_progress(event, state_digest)
        self._digests[model] = state_digest

    def _row(self, event: UnitFinished, parent: str | None, state_digest: str) -> UnitRow:
        return UnitRow(
            unit_id=self._lineage.unit_id(event.unit, parent),
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
        )

    def _note_progress(self, event: UnitFinished, state_digest: str) -> None:
        unit, fields = event.unit, dict[str, Any](status="training", state_digest=state_digest)
        if self._finish.ends_split(unit):
            self._catalog.add_metrics(unit.model, unit.epoch, unit.kind, event.values)
        if self._finish.ends_epoch(unit):
            fields["epochs"] = unit.epoch
        if self._finish.ends_model(unit):
            fields["status"] = "finished"
            self._log("model finished", {"model": unit.model, "state_digest": state_digest})
        self._catalog.set_model(unit.model, **fields)

    def _note_checkpoints(self, newest: Sequence[_Trained]) -> list[str]:
        """The rows of states that are durable; gives the older ones that no model needs any more."""
        for trained in newest:
            unit = trained.unit
            self._catalog.add_checkpoint(unit.model, unit.epoch, unit.position, trained.digest, len(trained.view))
        dropped = set[str]()
        for unit in (trained.unit for trained in newest):
            dropped.update(self._catalog.drop_older_checkpoints(unit.model, unit.epoch, unit.position))
        return sorted(dropped)

    def _log(self, kind: str, body: Mapping[str, Any]) -> None:
        self._catalog.add_event("engine", kind, body)
