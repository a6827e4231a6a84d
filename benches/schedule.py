"""How far from the best possible are our schedules, and what does a decision cost?

Simulated on a virtual clock: makespan / lower bound, where the lower bound is max(load of a worker, chain of a model)
and may be out of reach. Then the same schedules when units take up to 10 % more or less than planned, where ended
units are reported one by one.
"""

import itertools
import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness import arguments, print_figures, print_table

from cerebro.engines.simulated import SimulatedEngine, noisy
from cerebro.execution.forecast import Forecast, forecast, nominal_seconds
from cerebro.execution.policies import make_policy
from cerebro.execution.policy import Policy
from cerebro.execution.scheduler import Scheduler
from cerebro.ids import model_id
from cerebro.messages import Launch, UnitFinished
from cerebro.plan.order import visit_orders
from cerebro.plan.program import Program
from cerebro.plan.workload import Chain, Workload

MODELS, WORKERS = (8, 16, 32, 64, 256), (2, 8, 16, 64)
COSTS = ("equal", "1-2-4", "10^U")
SETTINGS = {"shared same": ("same", False), "pinned free": ("free", True), "pinned latin": ("latin", True)}
LARGEST = (256, 64)
EPOCHS, SHARED_SHARDS = 2, 8
GOALS = ("shared same", "pinned free")
JITTER = 0.1


@dataclass(frozen=True)
class Ratios:
    """Makespan / lower bound of one workload."""

    default: float
    random: float
    jittered: float
    planning_seconds: float


Cells = dict[tuple[str, int, int], list[Ratios]]
"""The runs, one for each seed, of each kind of costs, number of models and number of workers."""


def visit_seconds(kind: str, models: int, seed: int) -> list[float]:
    """What a visit costs each model."""
    stream = random.Random(f"{kind} {models} {seed}")
    match kind:
        case "equal":
            return [1.0] * models
        case "1-2-4":
            return [stream.choice((1.0, 2.0, 4.0)) for _ in range(models)]
        case _:
            return [10 ** stream.random() for _ in range(models)]


def make_workload(setting: str, kind: str, models: int, workers: int, seed: int) -> Workload:
    order, pinned = SETTINGS[setting]
    shards = workers if pinned else SHARED_SHARDS
    chains = [
        Chain(model_id(i), EPOCHS, (cost,) * shards, (), visit_orders(order, seed, EPOCHS, shards, i))
        for i, cost in enumerate(visit_seconds(kind, models, seed))
    ]
    return Workload(tuple(chains), workers, pinned)


def measure(workload: Workload, seed: int) -> Ratios:
    started = time.perf_counter()
    policy = make_policy("longest-remaining", workload, seed)
    planning_seconds = time.perf_counter() - started
    planned = forecast(workload, policy)
    by_chance = forecast(workload, make_policy("random", workload, seed))
    jittered, _ = play(workload, policy, seed)
    return Ratios(ratio(planned), ratio(by_chance), jittered, planning_seconds)


def ratio(found: Forecast) -> float:
    return found.makespan_seconds / found.lower_bound_seconds


def play(workload: Workload, policy: Policy, seed: int) -> tuple[float, float]:
    """Run as an executor does, one event at a time, with jitter: makespan / lower bound, microseconds of `handle`.

    The lower bound is that of the times which the units really took.
    """
    scheduler = Scheduler(workload, policy)
    engine = SimulatedEngine(noisy(nominal_seconds(workload), JITTER, seed))
    engine.open(Program(dict, Path(), seed), workload.workers, lambda model: None)
    chains, loads, spent, decisions = defaultdict[str, float](float), defaultdict[int, float](float), 0.0, 0
    while not scheduler.finished:
        event = engine.wait()
        assert event is not None, "the scheduler waits for nothing"
        started = time.perf_counter()
        commands = scheduler.handle(event)
        spent += time.perf_counter() - started
        decisions += 1
        for command in commands:
            assert isinstance(command, Launch)
            engine.submit(command)
        if isinstance(event, UnitFinished):
            chains[event.unit.model] += event.seconds
            loads[event.worker] += event.seconds
    load = max(loads.values()) if workload.pinned else sum(loads.values()) / workload.workers
    return engine.now / max(load, *chains.values()), 1e6 * spent / decisions


def print_setting(setting: str, cells: Cells) -> None:
    """A row for each kind of costs and number of models, a column for each number of workers: default (random)."""
    workers = sorted({count for _, _, count in cells})
    rows = [
        [kind, models, *(cell_text(cells[kind, models, count]) for count in workers)]
        for kind, models, first in cells
        if first == workers[0]
    ]
    shards = "one a worker" if SETTINGS[setting][1] else SHARED_SHARDS
    seeds = max(map(len, cells.values()))
    print_table(
        f"{setting}, {EPOCHS} epochs, shards: {shards}, mean of {seeds} seed(s): makespan / lower bound "
        f"of longest-remaining (random | with {JITTER:.0%} jitter)",
        ["costs", "models", *(f"{count} workers" for count in workers)],
        rows,
    )


def cell_text(runs: list[Ratios]) -> str:
    default, by_chance, jittered = (mean_of(runs, name) for name in ("default", "random", "jittered"))
    return f"{default:.3f} ({by_chance:.3f} | {jittered:.3f})"


def mean_of(runs: list[Ratios], name: str) -> float:
    return statistics.mean(getattr(run, name) for run in runs)


def figures(found: dict[str, Cells]) -> dict[str, float]:
    """Means over cells, which all weigh the same; the worst is that of a single run."""
    numbers: dict[str, float] = {}
    for prefix, settings in (("", GOALS), ("latin_", ("pinned latin",))):
        cells = [cell for setting in settings for cell in found[setting].values()]
        for name in ("default", "random", "jittered"):
            numbers[f"{prefix}{name}_mean"] = statistics.mean(mean_of(cell, name) for cell in cells)
            numbers[f"{prefix}{name}_worst"] = max(getattr(run, name) for cell in cells for run in cell)
    models, workers = LARGEST
    numbers[f"decision_us_{models}x{workers}"] = max(decision_us(setting) for setting in SETTINGS)
    runs = [run for cells in found.values() for cell in cells.values() for run in cell]
    numbers["planning_seconds_worst"] = max(run.planning_seconds for run in runs)
    return numbers


def decision_us(setting: str) -> float:
    """Mean microseconds that the scheduler takes for an event of the largest workload."""
    workload = make_workload(setting, "1-2-4", *LARGEST, seed=0)
    return play(workload, make_policy("longest-remaining", workload), 0)[1]


def seeds_of(kind: str, seeds: int) -> int:
    """Equal costs are the same for all seeds."""
    return 1 if kind == "equal" else seeds


def main() -> None:
    options = arguments("Makespan over lower bound, and the cost of a decision.", seeds=(int, 3, "seeds of the costs"))
    models, workers, seeds = (MODELS, WORKERS, options.seeds) if not options.quick else ((8, 16, 32), (2, 8, 16), 1)
    found: dict[str, Cells] = {}
    for setting in SETTINGS:
        found[setting] = {
            cell: [measure(make_workload(setting, *cell, seed), seed) for seed in range(seeds_of(cell[0], seeds))]
            for cell in itertools.product(COSTS, models, workers)
        }
        print_setting(setting, found[setting])
    print_figures("schedule", figures(found))


if __name__ == "__main__":
    main()
