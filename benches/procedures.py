"""Which procedure finds how good a model for how many epochs, and what does deciding in virtual time cost?

The recorded curves of 200 nets on scikit-learn's digits (`benches/curves/record.py`) are replayed on the simulated
engine, under the steering, executor and scheduler of a real run. Each seed draws 81 of the nets; only Hyperband knows
by itself how many it begins, and beside it is Random with as many as successive halving has epochs for. Procedures that
draw at random choose among the recorded configs, none twice. TPE proposes any config of the space that these were drawn
from, and gets the curve of the nearest one, which may come again. There is no PBT: of a clone nothing was recorded.
There is no Grid: over a list of configs it is Random in another order.

Regret: after so many epochs of all models together, the model whose newest loss is the lowest is taken; by how much is
the loss that its config comes to after 27 epochs above the lowest of all 200? A procedure that ends earlier stays where
it is. Best kept: how often the best of the nets that a search has begun is trained to the end.

Virtual time: makespan with `deterministic=True` over makespan without, on workers that take as long for each unit as
they took when the curves were recorded. The two are different searches: results come in another order.
"""

import math
import re
import statistics
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from curves.record import EPOCHS, TRAIN_SHARDS, Curve, read, space
from harness import arguments, print_figures, print_table

from cerebro.control.procedure import Procedure, Terms
from cerebro.control.procedures import (
    ASHA,
    Hyperband,
    MedianStopping,
    OptunaSearch,
    Random,
    SuccessiveHalving,
)
from cerebro.messages import Unit
from cerebro.spec.sampling import coordinates, dimensions
from cerebro.spec.space import Choice, LogUniform, RandInt
from cerebro.testing.simulated_search import Setting, SimulatedSearch

RECORDED, MODELS = 200, 81
BUDGETS = (50, 100, 250, 500, 1000, MODELS * EPOCHS)
WORKERS = (2, 4, 8)
LANES = (8, 16)
CURVES = {"curve": list(range(RECORDED))}
Make = Callable[[int], Procedure]
PROCEDURES: Mapping[str, Make] = {
    "Random": lambda lanes: Random(CURVES, models=MODELS),
    "Random, 9": lambda lanes: Random(CURVES, models=9),
    "SuccessiveHalving": lambda lanes: SuccessiveHalving(CURVES, models=MODELS, max_epochs=EPOCHS, lanes=lanes),
    "Hyperband": lambda lanes: Hyperband(CURVES, max_epochs=EPOCHS, lanes=lanes),
    "ASHA": lambda lanes: ASHA(CURVES, models=MODELS, max_epochs=EPOCHS, lanes=lanes),
    "MedianStopping": lambda lanes: MedianStopping(CURVES, models=MODELS, lanes=lanes),
    "TPE": lambda lanes: OptunaSearch(space(), models=MODELS, lanes=lanes),
    "ASHA(TPE)": lambda lanes: ASHA(OptunaSearch(space()), models=MODELS, max_epochs=EPOCHS, lanes=lanes),
}


class Replay:
    """The recorded curves as a setting of searches."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.curves = curves
        self.finals = [math.inf if curve.loss[-1] is None else curve.loss[-1] for curve in curves]
        self.best = int(np.argmin(self.finals))
        self._space = space()
        self._points = np.array([self._point(curve.config) for curve in curves])
        self._nearest = dict[tuple[float, ...], int]()

    def curve(self, config: Mapping[str, Any]) -> int:
        """The number of the curve that a model of this config follows."""
        if "curve" in config:
            return config["curve"]
        point = self._point(config)
        if point not in self._nearest:
            self._nearest[point] = int(np.argmin(((self._points - point) ** 2).sum(axis=1)))
        return self._nearest[point]

    def setting(self, workers: int) -> Setting:
        return Setting(self._score, workers, self._seconds, train_shards=TRAIN_SHARDS, valid_shards=1)

    def _score(self, config: Mapping[str, Any], epoch: int) -> float | None:
        return self.curves[self.curve(config)].loss[epoch - 1]

    def _seconds(self, config: Mapping[str, Any], unit: Unit) -> float:
        curve = self.curves[self.curve(config)]
        return curve.train_seconds if unit.kind == "train" else curve.valid_seconds

    def _point(self, config: Mapping[str, Any]) -> tuple[float, ...]:
        """The config in a cube of side 1, in which each dimension is uniform."""
        found = coordinates(self._space, config)
        assert found is not None, f"{config} is not in the space"
        return tuple(_share(dimension, found[path]) for path, dimension in dimensions(self._space))


def _share(dimension: Any, value: float) -> float:
    match dimension:
        case Choice(options):
            return value / (len(options) - 1)
        case LogUniform(low, high) | RandInt(low, high, _, True):
            return math.log(value / low) / math.log(high / low)
        case _:
            return (value - dimension.low) / (dimension.high - dimension.low)


@dataclass(frozen=True)
class Search:
    """What one search found."""

    spent: int
    """Epochs of all models together."""
    regrets: tuple[tuple[int, float], ...]
    """Whenever another model is the best: the epochs spent by then, and its regret."""
    is_kept: bool
    """Whether the best of the configs that it tried was trained to the last epoch."""

    def regret(self, epochs: int) -> float:
        """The regret after so many epochs."""
        place = bisect_right(self.regrets, epochs, key=lambda entry: entry[0])
        return self.regrets[max(place, 1) - 1][1]


def searched(make: Make, replay: Replay, seed: int) -> Search:
    run = SimulatedSearch(make(LANES[0]), Terms(seed, "min", EPOCHS), replay.setting(workers=1))
    newest, regrets, leader = dict[str, float](), list[tuple[int, float]](), ""
    for spent, end in enumerate(run.ends, 1):
        newest[end.model] = math.inf if end.value is None else end.value
        first = min(newest, key=newest.__getitem__)
        if first != leader:
            leader = first
            final = replay.finals[replay.curve(run.configs[leader])]
            regrets.append((spent, final - replay.finals[replay.best]))
    finals = {model: replay.finals[replay.curve(config)] for model, config in run.configs.items()}
    best = min(finals.values())
    kept = any(run.epochs[model] == EPOCHS for model, final in finals.items() if final == best)
    return Search(len(run.ends), tuple(regrets), kept)


def print_searches(found: Mapping[str, Sequence[Search]]) -> dict[str, float]:
    """The table of what is found for how many epochs; gives its figures."""
    rows, figures = list[list[object]](), dict[str, float]()
    for name, searches in found.items():
        regrets = [statistics.fmean(search.regret(epochs) for search in searches) for epochs in BUDGETS]
        spent = statistics.fmean(search.spent for search in searches)
        kept = statistics.fmean(search.is_kept for search in searches)
        texts = [f"{regret:.4f}" for regret in regrets]
        last = next((number for number, epochs in enumerate(BUDGETS) if epochs >= spent), len(BUDGETS) - 1)
        texts = [*texts[: last + 1], *("=" for _ in texts[last + 1 :])]
        rows.append([name, round(spent), *texts, f"{kept:.2f}"])
        key = _key(name)
        figures |= {f"{key}_regret_{epochs}": regret for epochs, regret in zip(BUDGETS[1:4], regrets[1:4], strict=True)}
        figures |= {f"{key}_regret_end": regrets[-1], f"{key}_epochs": spent, f"{key}_best_kept": kept}
    seeds = len(next(iter(found.values())))
    print_table(
        f"Mean regret (valid loss) after so many epochs, {seeds} seeds; =: it has ended",
        ["procedure", "epochs", *map(str, BUDGETS), "best kept"],
        rows,
    )
    return figures


@dataclass(frozen=True)
class Pace:
    """How fast one search was with virtual time, and without."""

    ratio: float
    idle: float
    """The share of the workers' time in which they had nothing to do, with virtual time."""
    idle_without: float


def paced(make: Make, replay: Replay, seed: int, workers: int, lanes: int) -> Pace:
    setting, terms = replay.setting(workers), Terms(seed, "min", EPOCHS)
    with_it, without = (
        SimulatedSearch(make(lanes), terms, replace(setting, deterministic=deterministic))
        for deterministic in (True, False)
    )
    return Pace(with_it.engine.now / without.engine.now, _idle(with_it, workers), _idle(without, workers))


def _idle(run: SimulatedSearch, workers: int) -> float:
    return 1 - run.busy_seconds / (workers * run.engine.now)


def print_paces(names: Sequence[str], replay: Replay, seeds: int, counts: Sequence[int]) -> dict[str, float]:
    """The table of what virtual time costs; gives its figures."""
    rows, means = list[list[object]](), dict[tuple[int, int], list[float]]()
    for name in names:
        for lanes in LANES:
            texts = list[str]()
            for workers in counts:
                paces = [paced(PROCEDURES[name], replay, seed, workers, lanes) for seed in range(seeds)]
                ratio, idle, idle_without = (
                    statistics.fmean(getattr(pace, field) for pace in paces)
                    for field in ("ratio", "idle", "idle_without")
                )
                means.setdefault((workers, lanes), []).append(ratio)
                texts.append(f"{ratio:.3f} ({idle:.1%} | {idle_without:.1%})")
            rows.append([name, lanes, *texts])
    print_table(
        f"Virtual time: makespan over makespan without, {seeds} seeds (idle workers with | without)",
        ["procedure", "lanes", *(f"{count} workers" for count in counts)],
        rows,
    )
    return {
        f"virtual_time_{workers}_workers_{lanes}_lanes": statistics.fmean(ratios)
        for (workers, lanes), ratios in means.items()
    }


def _key(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def main() -> None:
    options = arguments(__doc__ or "", seeds=(int, 24, "how often each procedure searches"))
    seeds, workers = (2, WORKERS[1:2]) if options.quick else (options.seeds, WORKERS)
    replay = Replay(read())
    found = {name: [searched(make, replay, seed) for seed in range(seeds)] for name, make in PROCEDURES.items()}
    figures = print_searches(found)
    named = [name for name, make in PROCEDURES.items() if make(LANES[0]).lanes is not None]
    print_figures("procedures", figures | print_paces(named, replay, seeds, workers))


if __name__ == "__main__":
    main()
