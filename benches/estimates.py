"""Are the estimates true? What `explain` says of a plan before it runs, against what was measured when it ran.

Eight searches of different kinds on two workers, each in a new store after a pilot of its own: seconds from the first
unit to the last, peak bytes of the workers, and bytes of states moved. An error is the distance of the estimate, as a
share of what was measured; of several rounds the median counts. `fit s` is the whole call, workers' start included.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import transfer
from harness import arguments, print_figures, print_table
from workloads import WORKERS, ConvLSTM, Runs, Setting, cnn, experiment_of, mlp

import cerebro
from cerebro.execution.policies import DEFAULT_POLICY
from cerebro.plan.cost import Cost
from cerebro.session.expectation import expected_work
from cerebro.session.pilot import remembered_pilot
from cerebro.session.planning import actual_cost, plan
from cerebro.session.room import as_features
from cerebro.storage.store import Store

SETTINGS = (
    Setting("micro_mlp_64", partial(mlp, 32, 16), 64, 32, 16384, 2),
    Setting("criteo_mlp_8", partial(mlp, 1000, 500), 8, 256, 16384, 1),
    Setting("convlstm_small_8", partial(ConvLSTM, 8, 16), 8, 16, 4096, 2, (6, 100)),
    Setting("convlstm_mid_8", partial(ConvLSTM, 32, 64), 8, 64, 4096, 2, (6, 100)),
    Setting("cnn_8", partial(cnn, 16), 8, 32, 2048, 2, (3, 24, 24)),
    Setting("many_shards_8", partial(mlp, 64, 32), 8, 64, 16384, 2, shards=48),
)
ASHA = Setting("asha_16", partial(ConvLSTM, 16, 32), 16, 32, 4096, 4, (6, 100))


def experiments(folder: Path) -> Iterator[tuple[str, cerebro.Experiment]]:
    for setting in SETTINGS:
        yield setting.name, experiment_of(setting, folder)
    search = cerebro.ASHA({"lr": cerebro.loguniform(1e-4, 1e-2)}, models=ASHA.models, max_epochs=ASHA.epochs)
    yield ASHA.name, experiment_of(ASHA, folder, search)
    yield "heads_8", transfer.Set("heads", 0, transfer.make_data(folder, 2048), 10, folder).experiment


@dataclass(frozen=True)
class Found:
    """One run: what was estimated, what it came to, and the seconds of the whole call of `fit`."""

    estimated: Cost
    actual: Cost
    fit_seconds: float

    def error(self, name: str) -> float:
        return abs(getattr(self.estimated, name) / getattr(self.actual, name) - 1)


def measured(runs: Runs) -> Found:
    """A pilot, and then a run on workers that are new again."""
    estimated = planned_cost(runs.experiment, runs.pilots)
    fit_seconds = runs.fit("run")
    with closing(runs.experiment.result(runs.store).folder.reader()) as reader:
        return Found(estimated, actual_cost(reader), fit_seconds)


def planned_cost(experiment: cerebro.Experiment, store: Path) -> Cost:
    """The cost in the first line of `explain`."""
    experiment.explain(store=store, workers=WORKERS)
    declaration, means, _ = experiment._prepare(WORKERS, "local", "auto", DEFAULT_POLICY)
    remembered = remembered_pilot(declaration, Store(store))
    assert remembered is not None, "the pilot is remembered"
    means = replace(means, features=as_features("auto", Store(store).features))
    return plan(declaration, expected_work(declaration, remembered.profiles), means)[0].cost


def row(label: str, found: Sequence[Found]) -> list[object]:
    """The round of the median error in seconds, and the errors."""
    middle = sorted(found, key=lambda run: run.error("seconds"))[len(found) // 2]
    cells = list[object]([label])
    for name, unit in (("seconds", 1.0), ("peak_bytes", 2.0**20), ("moved_bytes", 2.0**20)):
        cells += [getattr(middle.estimated, name) / unit, getattr(middle.actual, name) / unit]
        cells.append(f"{median(run.error(name) for run in found):.0%}")
    return [*cells, middle.fit_seconds]


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 3, "rounds"), only=(str, "", "the search with this name alone"))
    rounds = 1 if options.quick else options.rounds
    rows, names = list[list[object]](), ("seconds", "peak_bytes", "moved_bytes")
    errors = {name: list[float]() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for label, experiment in experiments(Path(folder)):
            if options.only not in ("", label):
                continue
            found = [measured(Runs(experiment, Path(folder) / f"{label}-{number}")) for number in range(rounds)]
            rows.append(row(label, found))
            for name in names:
                errors[name].append(median(run.error(name) for run in found))
    columns = ["search", "est s", "s", "error", "est MiB", "MiB", "error", "est moved MiB", "moved", "error", "fit s"]
    print_table(f"estimated and measured on {WORKERS} workers, median of {rounds}", columns, rows)
    figures = {f"{name.partition('_')[0]}_median_error": median(errors[name]) for name in names}
    print_figures("estimates", figures | {"seconds_worst_error": max(errors["seconds"])})


if __name__ == "__main__":
    main()
