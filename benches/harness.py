"""What every bench shares: interleaved rounds, medians, and the last line of JSON."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def arguments(description: str, **extra: tuple[type, object, str]) -> argparse.Namespace:
    """The command line of a bench: `--quick`, and options of its own as `name=(type, default, help)`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller run, to see that it works")
    for name, (kind, default, text) in extra.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser.parse_args()


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; all take their turn in every round, in changing order."""
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(contenders[name]())
    return seconds


def timed(work: Callable[[], object]) -> float:
    """Wall seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(numerator, denominator, strict=True))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table under a title that notes the load of the machine."""
    load = os.getloadavg()
    print(f"\n{title}   (load {load[0]:.1f}, {os.cpu_count()} cores)")
    texts = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]
    for line in [list(columns), *texts]:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def print_figures(bench: str, figures: Mapping[str, float]) -> None:
    """The last line: what a machine reads."""
    print(json.dumps({"bench": bench, "figures": {name: round(value, 4) for name, value in figures.items()}}))


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
