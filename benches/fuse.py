"""Several models in one pass: how fast is it, against loops that somebody would write by hand?

Contenders, all with the same nets, batches of the same size, epochs, metrics and validation, on two processes:

- cerebro: `experiment.fit(workers=2)`, catalog and checkpoints on disk included; it fuses where its pilot says so;
- alone: the same with `fuse=False`; the two end with the same bits, which is checked, unless `exact=False`;
- strong: two processes, each with half of the configs one after another; slices of tensors in memory, fused AdamW;
- typical: the same with a DataLoader and the default AdamW.

On a GPU (`--device cuda`) Cerebro has one worker, and `strong` keeps its tensors there; there is no `typical`.

In `convlstm_small_8_inexact` the experiment allows other bits; the plan says how far off they are. Processes are forked
from a parent that has torch loaded, for all contenders.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from harness import arguments, interleaved, median_ratio, print_figures, print_table
from workloads import ConvLSTM, Setting, Workload, mlp, unequal_states

SETTINGS = (
    Setting("micro_mlp_64", partial(mlp, 32, 16), 64, 32, 16384, 2),
    Setting("tiny_mlp_16", partial(mlp, 128, 64), 16, 64, 16384, 6),
    Setting("convlstm_small_8", partial(ConvLSTM, 8, 16), 8, 16, 4096, 2, (6, 100)),
    Setting("convlstm_small_8_inexact", partial(ConvLSTM, 8, 16), 8, 16, 4096, 2, (6, 100), exact=False),
    Setting("criteo_mlp_16", partial(mlp, 1000, 500), 16, 256, 16384, 1),
    Setting("convlstm_mid_8", partial(ConvLSTM, 32, 64), 8, 64, 4096, 2, (6, 100)),
)


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds=(int, 7, "rounds"),
        only=(str, "", "the setting with this name alone"),
        device=(str, "cpu", "or `cuda`"),
        share=(float, 1.0, "share of the rows"),
    )
    rounds = 1 if options.quick else options.rounds
    figures, unequal = dict[str, float](), 0
    with tempfile.TemporaryDirectory() as name:
        for setting in SETTINGS[:2] if options.quick else SETTINGS:
            if options.only not in ("", setting.name):
                continue
            setting = replace(setting, rows=round(setting.rows * options.share))
            workload = Workload(setting, Path(name), options.device)
            plan = workload.runs.plan().splitlines()[-1].strip("└─ ")
            workload.runs.fit("cerebro")  # starts the fork server
            seconds = interleaved(workload.contenders(), rounds)
            if setting.exact:
                unequal += unequal_states(*(workload.runs.digests[way] for way in ("cerebro", "alone")))
            table = [(who, median(taken), median_ratio(taken, seconds["cerebro"])) for who, taken in seconds.items()]
            title = f"{setting.name}: {setting.models} models, {setting.epochs} epochs, median of {rounds}\n  {plan}"
            print_table(title, ["contender", "seconds", "× cerebro"], table)
            for who, taken in list(seconds.items())[1:]:
                figures[f"{setting.name}_vs_{who}"] = median_ratio(taken, seconds["cerebro"])
    print_figures("fuse", figures | {"unequal_digests": unequal})
    assert not unequal, "passes changed bits"


if __name__ == "__main__":
    main()
