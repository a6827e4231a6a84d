"""Is the choice of what is stored made in time, and what is an integer program worth over the greedy choice?

64 configs share 40 frozen prefixes of drawn depth, on ten shards, with disk for about a third of the columns and memory
for a tenth. `gap` is how far the program's choice may be from the best, as a share of the seconds of deriving, and
`greedy_over_program` what the greedy choice takes for each second of the program's; both are the worst over all draws.
"""

import sys
import time
from unittest.mock import patch

import numpy as np
from harness import arguments, print_figures, print_table

from cerebro.optimizer.materialize import Chosen, Place, Prefix, Room, choose

PREFIXES, CONFIGS, SHARDS, WORKERS, EPOCHS = 40, 64, 10, 4, 10


def drawn(seed: int) -> tuple[list[Prefix], dict[Place, int], Room]:
    """Prefixes of one to twelve layers of backbones of several widths, each of some of the configs."""
    random = np.random.RandomState(seed)
    models = 1 + random.multinomial(CONFIGS - PREFIXES, np.full(PREFIXES, 1 / PREFIXES))
    depth, width = random.randint(1, 13, PREFIXES), random.choice([128, 256, 384, 768], PREFIXES)
    row_bytes = 4.0 * width * random.choice([1, 16, 48], PREFIXES)  # pooled, or of each word
    row_seconds = depth * width**2 * 2e-9
    prefixes = [
        Prefix(f"p{n}", f"p{n}", int(models[n]), int(models[n]) * EPOCHS, float(row_seconds[n]), float(row_bytes[n]))
        for n in range(PREFIXES)
    ]
    rows: dict[Place, int] = {("train", shard): int(random.randint(900, 1100)) for shard in range(SHARDS)}
    size = float(row_bytes.sum()) * sum(rows.values())
    return prefixes, rows, Room(size / 3, size / 10, WORKERS)


def timed(prefixes: list[Prefix], rows: dict[Place, int], room: Room) -> tuple[Chosen, float, float]:
    """The choice, what it comes to, and the seconds that choosing takes."""
    before = time.perf_counter()
    chosen = choose(prefixes, rows, room)
    return chosen, sum(choice.seconds for choice in chosen.choices), time.perf_counter() - before


def main() -> None:
    options = arguments(__doc__ or "", draws=(int, 5, "sets of prefixes"))
    table, program_seconds, gaps, ratios = [], [], [], []
    for seed in range(2 if options.quick else options.draws):
        given = drawn(seed)
        program, cost, seconds = timed(*given)
        with patch.dict(sys.modules, {"ortools.sat.python": None}):
            greedy, greedy_cost, greedy_seconds = timed(*given)
        table.append((seed, program.by, cost, program.gap, seconds, greedy_cost, greedy.gap, greedy_seconds))
        program_seconds.append(seconds)
        gaps.append(program.gap)
        ratios.append(greedy_cost / cost)
    heads = ["draw", "by", "comes to, s", "gap", "chosen in, s", "greedy comes to, s", "gap", "chosen in, s"]
    print_table(f"{PREFIXES} prefixes, {CONFIGS} configs, {SHARDS} shards", heads, table)
    figures = {"program_seconds": max(program_seconds), "gap": max(gaps), "greedy_over_program": max(ratios)}
    print_figures("materialize", figures)


if __name__ == "__main__":
    main()
