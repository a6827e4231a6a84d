"""How long does the optimizer take, without pilots?

Plans experiments of more and more configs: with fused passes to weigh, with frozen parts to store, with models of many
kinds. Each is planned anew every round; the median counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from harness import arguments, print_figures, print_table

from cerebro.optimizer.given import Given, Means, Work
from cerebro.optimizer.optimizer import optimize
from cerebro.plan.cost import Derivation, Profile, Together
from cerebro.plan.features import Features
from cerebro.plan.logical import Scan, Select, Train

SIZES, ROUNDS, LARGEST = (16, 64, 256), 5, 256
SHARDS, EPOCHS, WORKERS = 8, 10, 2
MLP = Profile(
    "mlp", "MLP", 10_000, "AdamW", 64, 64, False, ("accuracy",), state_bytes=120_000, train_batch_seconds=0.002,
    valid_batch_seconds=0.001, peak_bytes=300 << 20, together=Together(32, train_gain=3.0, valid_gain=2.0),
)  # fmt: skip
HEAD = replace(MLP, derived=(Derivation("backbone", "backbone", row_seconds=1e-3, row_bytes=2048),), together=None)


def one_kind(number: int) -> Profile:
    return MLP


def heads(number: int) -> Profile:
    return HEAD


def many_kinds(number: int) -> Profile:
    """Sixteen architectures, of which one in two gains by passes."""
    kind = number % 16
    seconds = 0.001 * (1 + kind)
    together = Together(2, train_gain=1.5 if kind % 2 else 0.9, valid_gain=1.2)
    return replace(MLP, signature=f"net-{kind}", train_batch_seconds=seconds, together=together)


KINDS = {"one kind": one_kind, "16 kinds": many_kinds, "frozen backbone": heads}


def known(kind: Callable[[int], Profile], models: int) -> tuple[Select, Given]:
    configs = {f"m{number + 1:03d}": {"lr": number / 1000} for number in range(models)}
    scan = Scan("data.shards", (2000,) * SHARDS, (1000,) * 2)
    means = Means(WORKERS, "longest-remaining", "local", Features("auto", folder="features"))
    work = Work(configs, {model: kind(number) for number, model in enumerate(configs)})
    select = Select("valid", "accuracy", "max", Train(configs, EPOCHS, "same", 0, scan))
    return select, Given(work, means, memory_bytes=1 << 40, disk_bytes=1e12)


def planning_seconds(kind: Callable[[int], Profile], models: int) -> tuple[float, int]:
    """Wall seconds of planning, and how many alternatives were weighed."""
    select, given = known(kind, models)
    started = time.perf_counter()
    found = optimize(select, given)
    return time.perf_counter() - started, len(found.plan.considered)


def main() -> None:
    options = arguments(__doc__ or "")
    rounds = 2 if options.quick else ROUNDS
    found = dict[tuple[str, int], float]()
    rows = list[list[object]]()
    for name, kind in KINDS.items():
        row: list[object] = [name]
        for models in SIZES:
            seconds, weighed = zip(*(planning_seconds(kind, models) for _ in range(rounds)), strict=True)
            found[name, models] = statistics.median(seconds)
            row += [found[name, models], weighed[0]]
        rows.append(row)
    columns = ["configs", *(text for models in SIZES for text in (f"{models}: s", "weighed"))]
    print_table(f"planning, {EPOCHS} epochs × {SHARDS} + 2 shards on {WORKERS} workers", columns, rows)
    largest = {name: seconds for (name, models), seconds in found.items() if models == LARGEST}
    print_figures("planning", {f"plan_{LARGEST}_seconds": max(largest.values())})


if __name__ == "__main__":
    main()
