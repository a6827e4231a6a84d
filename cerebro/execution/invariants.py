"""The four invariants of model hopper parallelism (PVLDB 13(11) 2020, section 4.1), checked at every launch.

This is double entry: the ledger keeps books of its own and shares no code with what decides, so that it can catch
its mistakes.
"""

from dataclasses import dataclass, field

from cerebro.errors import InternalError
from cerebro.messages import Unit
from cerebro.plan.workload import Assign, Chain, Done, Workload


@dataclass(slots=True)
class _Account:
    """The visits of one model in the epoch that it is in."""

    chain: Chain
    epoch: int
    trained: set[int]
    measured: int
    worker: int | None = None
    """Where a unit of the model runs."""


@dataclass(slots=True)
class Ledger:
    """What was launched and what ended.

    Raises:
        InternalError: by every method, when what is asked would break an invariant.
    """

    workload: Workload
    running: dict[int, tuple[Unit, ...]] = field(default_factory=dict[int, tuple[Unit, ...]])
    """The units on each busy worker that have not ended: one, or one each of several models on the same shard."""
    launched: int = 0
    ended: int = 0
    _accounts: dict[str, _Account] = field(default_factory=dict[str, _Account])

    def __post_init__(self) -> None:
        for chain in self.workload.chains:
            done = self.workload.done.get(chain.model, Done())
            self._accounts[chain.model] = _Account(chain, done.epoch, set(done.train_shards), done.valid_visits)

    def assign(self, change: Assign) -> None:
        """Open an account for a new model, or let one lead further or less far."""
        account = self._accounts.get(change.chain.model)
        if account is None:
            done = change.done
            account = _Account(change.chain, done.epoch, set(done.train_shards), done.valid_visits)
            self._accounts[change.chain.model] = account
        account.chain = change.chain

    def launch(self, unit: Unit, worker: int, fellows: tuple[Unit, ...] = ()) -> None:
        """Check a launch of a unit, and of its fellows in the same pass, and write it down."""
        units = (unit, *fellows)
        for each in units:
            account = self._accounts[each.model]
            self._check_completeness(account, each)
            self._check_isolation(account, each, worker)
            self._check_one_pass(each, unit)
            account.worker = worker
        self._check_exclusive_access(unit, worker)
        self._check_no_preemption(unit)
        self.running[worker] = units
        self.launched += len(units)

    def end(self, unit: Unit, worker: int, *, happened: bool) -> None:
        """Check that `unit` runs on `worker`, and write down that it has ended; `happened` if it ended well."""
        running = self.running.get(worker, ())
        if unit not in running:
            there = ", ".join(map(_text, running)) or "nothing"
            raise InternalError(f"{_text(unit)} ended on worker {worker}, where {there} runs")
        place = running.index(unit)  # the first of a pass, mostly
        left = running[:place] + running[place + 1 :]
        if left:
            self.running[worker] = left
        else:
            del self.running[worker]
        account = self._accounts[unit.model]
        account.worker = None
        self.ended += 1
        if happened and unit.kind == "train":
            account.trained.add(unit.shard)
        elif happened:
            account.measured += 1

    def _check_completeness(self, account: _Account, unit: Unit) -> None:
        """In an epoch a model visits every shard exactly once, in its order, and every valid shard after that."""
        chain = account.chain
        train, valid = len(chain.train_seconds), len(chain.valid_seconds)
        if len(account.trained) == train and account.measured == valid:
            account.epoch, account.trained, account.measured = account.epoch + 1, set(), 0
        trained = len(account.trained)
        if unit.epoch != account.epoch or unit.epoch > chain.epochs:
            raise InternalError(f"completeness: {_text(unit)}, but its model is in epoch {account.epoch}")
        if unit.kind == "train":
            fits = unit.position == trained and 0 <= unit.shard < train and unit.shard not in account.trained
            fits = fits and (chain.orders is None or chain.orders[unit.epoch - 1][trained] == unit.shard)
        else:
            fits = trained == train and unit.position == unit.shard == account.measured < valid
        if not fits:
            visits = f"{trained} of {train} train and {account.measured} of {valid} valid visits"
            raise InternalError(f"completeness: {_text(unit)} is not next after {visits}")

    def _check_isolation(self, account: _Account, unit: Unit, worker: int) -> None:
        """A model is on at most one worker."""
        if account.worker is not None:
            raise InternalError(f"isolation: {_text(unit)} on worker {worker}, but its model is on {account.worker}")

    def _check_exclusive_access(self, unit: Unit, worker: int) -> None:
        """A worker runs one unit at a time, and a pinned shard, which has one worker, serves one."""
        if worker in self.running:
            raise InternalError(f"exclusive access: {_text(unit)} on worker {worker}, which runs another unit")
        if not 0 <= worker < self.workload.workers:
            raise InternalError(f"exclusive access: there is no worker {worker}")
        if self.workload.pinned and worker != unit.shard % self.workload.workers:
            raise InternalError(f"exclusive access: {_text(unit)} on worker {worker}, which does not hold the shard")

    def _check_no_preemption(self, unit: Unit) -> None:
        """Whatever was launched and has not ended is still running."""
        if self.launched != self.ended + sum(map(len, self.running.values())):
            raise InternalError(f"non-preemption: before {_text(unit)} a unit vanished from its worker")

    def _check_one_pass(self, unit: Unit, first: Unit) -> None:
        """Units that are made together are the same visit to the same shard."""
        place, places = (unit.kind, unit.epoch, unit.shard), (first.kind, first.epoch, first.shard)
        if place != places:
            raise InternalError(f"one pass: {_text(unit)} is another visit than {_text(first)}")


def _text(unit: Unit) -> str:
    return f"{unit.model} epoch {unit.epoch} {unit.kind} visit {unit.position} (shard {unit.shard})"
