"""Is the planner right about passes? Four nets at three batch sizes, from where passes gain much to where they lose.

For each cell whole runs on two workers with passes, with each model alone, and the loop that somebody would write by
hand for two processes (`strong` of `by_hand.py`), interleaved. The planner's choice is one of the first two: how far is
it from the quicker one, and from the loop? Passes are forced by a pilot that is edited to say that they gain much.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from harness import arguments, interleaved, median_ratio, print_figures, print_table
from workloads import ConvLSTM, Setting, Workload, mlp

SIGNAL = (6, 100)
CELLS = (
    *(
        Setting(f"mlp_2k_b{size}", partial(mlp, 32, 16), 16, size, 10240, n)
        for size, n in ((16, 4), (64, 12), (256, 24))
    ),
    *(
        Setting(f"mlp_14k_b{size}", partial(mlp, 128, 64), 16, size, 10240, n)
        for size, n in ((16, 2), (64, 8), (256, 12))
    ),
    *(
        Setting(f"mlp_544k_b{size}", partial(mlp, 1000, 500), 8, size, 5120, n)
        for size, n in ((16, 1), (64, 3), (256, 4))
    ),
    *(
        Setting(f"conv_b{size}", partial(ConvLSTM, 8, 16), 8, size, 5120, n, SIGNAL)
        for size, n in ((16, 2), (64, 4), (256, 6))
    ),
)
QUICK = ("mlp_2k_b64", "conv_b256")
NEAR = 1.05
"""A plan is as good as the best within this."""


@dataclass(frozen=True)
class Cell:
    """What was measured of one setting."""

    name: str
    chosen: str
    gain: str
    """What the pilot says of a pass."""
    seconds: Mapping[str, Sequence[float]]

    @property
    def over_best(self) -> float:
        """The chosen plan's seconds over those of the quicker one."""
        best = min(("fused", "alone"), key=lambda way: median(self.seconds.get(way, [float("inf")])))
        return median_ratio(self.seconds[self.chosen], self.seconds[best])

    @property
    def vs_strong(self) -> float:
        return median_ratio(self.seconds["strong"], self.seconds[self.chosen])

    def row(self) -> list[object]:
        ways = [median(self.seconds[way]) if way in self.seconds else "-" for way in ("fused", "alone", "strong")]
        return [self.name, self.gain, self.chosen, *ways, self.over_best, self.vs_strong]


def measured(setting: Setting, folder: Path, rounds: int) -> Cell:
    workload = Workload(setting, folder)
    chosen = "fused" if "Fuse" in workload.runs.plan() else "alone"
    contenders, gain = workload.contenders(), "not tried"
    forced = workload.runs.with_passes()
    if forced is not None:
        contenders["fused"], gain = partial(forced.fit, "fused"), f"{workload.runs.gain:.2f}"
    contenders = {way: contenders[way] for way in ("fused", "alone", "strong") if way in contenders}
    seconds = interleaved(contenders, rounds)
    if forced is not None:
        assert "Fuse" in forced.plan(), "there are passes"
        assert forced.digests["fused"] == workload.runs.digests["alone"], "passes changed bits"
    return Cell(setting.name, chosen, gain, seconds)


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 3, "rounds"), only=(str, "", "cells whose names begin so"))
    rounds = 1 if options.quick else options.rounds
    settings = [cell for cell in CELLS if cell.name.startswith(options.only)]
    if options.quick:
        settings = [cell for cell in settings if cell.name in QUICK]
    with tempfile.TemporaryDirectory() as name:
        cells = [measured(setting, Path(name), rounds) for setting in settings]
    columns = ["cell", "pilot's gain", "chosen", "fused s", "alone s", "strong s", "chosen / best", "strong / chosen"]
    print_table(f"{len(cells)} cells, median of {rounds}", columns, [cell.row() for cell in cells])
    figures = {
        "within_5_percent_share": sum(cell.over_best <= NEAR for cell in cells) / len(cells),
        "worst_vs_best": max(cell.over_best for cell in cells),
        "worst_vs_strong": min(cell.vs_strong for cell in cells),
    }
    print_figures("crossover", figures)


if __name__ == "__main__":
    main()
