"""What a schedule will be: the real scheduler on a virtual clock, with nominal durations."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from cerebro.execution.place import Place
from cerebro.execution.policy import Policy
from cerebro.execution.scheduler import Scheduler
from cerebro.messages import Launch, Unit, UnitFinished, WorkerJoined
from cerebro.plan.workload import Chain, Done, Workload


@dataclass(frozen=True, slots=True)
class Entry:
    """One unit in a schedule; seconds from its beginning."""

    unit: Unit
    worker: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """A schedule, and what no schedule can be shorter than."""

    makespan_seconds: float
    lower_bound_seconds: float
    entries: tuple[Entry, ...]
    """By start, then worker."""
    read_bytes: int = 0
    """Bytes of shards that are read, where the workload says what memory may hold of them."""


def forecast(workload: Workload, policy: Policy, seconds: Callable[[Unit], float] | None = None) -> Forecast:
    """The schedule of `workload` under `policy` when nothing fails; units take their nominal time, or `seconds`."""
    shares = _nominal_shares(workload) if seconds is None else lambda unit, models: seconds(unit)
    scheduler = Scheduler(workload, policy)
    entries: list[Entry] = []
    ends: list[tuple[float, int, tuple[Unit, ...]]] = []
    commands = scheduler.handle(*(WorkerJoined(worker) for worker in range(workload.workers)))
    now, read_bytes = workload.beginning_seconds, 0
    while True:
        for command in commands:
            assert isinstance(command, Launch), "no worker dies in a forecast"
            end = now + sum(shares(unit, len(command.units)) for unit in command.units)
            if workload.memory is not None and command.reading is not None and command.reading.anew:
                read_bytes += workload.memory.size(command.unit.kind, command.unit.shard)
            entries += [Entry(unit, command.worker, now, end) for unit in command.units]
            heapq.heappush(ends, (end, command.worker, command.units))
        if not ends:
            return Forecast(now, lower_bound(workload), tuple(entries), read_bytes)
        now, events = ends[0][0], list[UnitFinished]()
        while ends and ends[0][0] == now:
            _, worker, units = heapq.heappop(ends)
            events += [UnitFinished(unit, worker, now, 0.0) for unit in units]
        commands = scheduler.handle(*events)


def _nominal_shares(workload: Workload) -> Callable[[Unit, int], float]:
    """What a unit is expected to take in a pass of so many models."""
    chains = {chain.model: chain for chain in workload.chains}

    def share(unit: Unit, models: int) -> float:
        chain = chains[unit.model]
        seconds = chain.seconds(unit.kind, unit.epoch, unit.shard)
        if chain.pass_gain is None or unit.epoch <= len(chain.passes):  # a `Pass` says itself what part is paid
            return seconds
        return chain.pass_gain.share(unit.kind, seconds, models)

    return share


def nominal_seconds(workload: Workload) -> Callable[[Unit], float]:
    """What a unit is expected to take."""
    chains = {chain.model: chain for chain in workload.chains}
    return lambda unit: chains[unit.model].seconds(unit.kind, unit.epoch, unit.shard)


def lower_bound(workload: Workload) -> float:
    """Seconds that no schedule can be shorter than: the largest load of a worker, and the longest chain of a model.

    Work on shards that are not pinned can be shared out evenly.
    """
    longest, loads = 0, [0] * workload.workers
    for chain in workload.chains:
        left = list(_place(chain, workload).work_left())
        longest = max(longest, sum(cost for _, cost in left))
        for shard, cost in left:
            loads[shard % workload.workers] += cost
    load = max(loads) if workload.pinned else sum(loads) / workload.workers
    return workload.beginning_seconds + max(load, longest) / 1e9


def count_units(workload: Workload) -> int:
    """How many units are to be made."""
    return sum(_place(chain, workload).count_left() for chain in workload.chains)


def _place(chain: Chain, workload: Workload) -> Place:
    return Place(chain, workload.done.get(chain.model, Done()))


def schedule_text(schedule: Forecast) -> str:
    """A schedule as text: a line for each moment at which units start, and its length.

    `t=4    w0 m003 s0    w1 m001+m002 v1`: at 4 seconds m003 starts on train shard 0, and m001 and m002 in one pass
    on valid shard 1.
    """
    moments: dict[str, dict[int, list[Entry]]] = {}
    for entry in sorted(schedule.entries, key=lambda entry: (entry.start, entry.worker)):
        moments.setdefault(f"t={entry.start:g}", {}).setdefault(entry.worker, []).append(entry)
    width = max(map(len, moments), default=0)
    lines = [f"{moment:<{width}}    {'    '.join(map(_start, passes.values()))}" for moment, passes in moments.items()]
    return "\n".join([*lines, f"makespan {schedule.makespan_seconds:g}  lower bound {schedule.lower_bound_seconds:g}"])


def _start(entries: list[Entry]) -> str:
    first, models = entries[0], "+".join(entry.unit.model for entry in entries)
    letter = "s" if first.unit.kind == "train" else "v"
    return f"w{first.worker} {models} {letter}{first.unit.shard}"
