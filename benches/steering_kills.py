"""Does a search decide the same, however many workers it has and however often it is killed?

ASHA, Hyperband, PBT, and ASHA over Optuna's TPE, each from one seed: once undisturbed in one process, then on 1, 2 and
3 worker processes that are killed with signal 9 at random moments of the trace: the driver, a worker, or the driver and
all workers. After each kill the same command is run again. In the end the digest of every model and every decision,
with the numbers that it was made from, must be those of the undisturbed run.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import make_data
from driven import write_experiment
from harness import arguments, print_figures, print_table

from cerebro.session.source import load_experiment
from cerebro.testing.faults import Chaos, Subject, decisions, digests, leftovers

SPACE = '{"width": [16, 32], "lr": cerebro.loguniform(1e-4, 1e-1)}'
SEARCHES = {
    "ASHA": f"cerebro.ASHA({SPACE}, models=12, max_epochs=4, eta=2)",
    "Hyperband": f"cerebro.Hyperband({SPACE}, max_epochs=4, eta=2)",
    "PBT": f"cerebro.PBT({SPACE}, population=6, interval=1)",
    "TPE+ASHA": f'cerebro.ASHA(cerebro.OptunaSearch({SPACE}, sampler="tpe"), models=12, max_epochs=4, eta=2)',
}
WORKERS = (1, 2, 3)
LINES_MAX = 16
"""At most so many lines of the trace between two kills."""


def declared(folder: Path, name: str, data: Path) -> Path:
    file = folder / f"search_{name.lower().replace('+', '_')}.py"
    return write_experiment(file, "search", data, SEARCHES[name], epochs=4, batch_size=32)


@dataclass(frozen=True)
class Killed:
    """A search that was killed again and again, beside the undisturbed one."""

    procedure: str
    workers: int
    models: int
    decisions: int
    victims: dict[str, int]
    has_equal_digests: bool
    has_equal_decisions: bool

    @property
    def kills(self) -> int:
        return sum(self.victims.values())

    def row(self) -> list[object]:
        equal = ["equal" if same else "DIFFER" for same in (self.has_equal_digests, self.has_equal_decisions)]
        return [self.procedure, self.workers, self.models, self.decisions, self.kills, self.victims, *equal]


def killed(procedure: str, folder: Path, data: Path, workers: Sequence[int], kills: int, seed: int) -> Iterator[Killed]:
    """One search on so many workers each."""
    file, calm = declared(folder, procedure, data), folder / f"calm-{procedure}"
    load_experiment(file).fit(engine="inline", workers=1, store=calm, progress=False)
    states, decided = digests(calm, "search"), decisions(calm, "search")
    for count in workers:
        subject = Subject(file, "search", folder / f"{procedure}-{count}", count)
        chaos = Chaos(subject, seed + count, LINES_MAX)
        chaos.run(kills)
        assert leftovers(subject.store, "search") == []
        same = digests(subject.store, "search") == states, decisions(subject.store, "search") == decided
        yield Killed(procedure, count, len(states), len(decided), dict(chaos.victims), *same)


def main() -> None:
    options = arguments(
        __doc__ or "", kills=(int, 5, "kills of each run"), seed=(int, 0, "what is drawn comes from it")
    )
    names, workers, kills = list(SEARCHES), WORKERS, options.kills
    if options.quick:
        names, workers, kills = ["ASHA", "PBT"], (2,), 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, 4_000)
        found = [
            run
            for number, procedure in enumerate(names)
            for run in killed(procedure, folder, data, workers, kills, options.seed + 10 * number)
        ]
    columns = ["procedure", "workers", "models", "decisions", "kills", "of", "digests", "decisions"]
    print_table("Killing searches", columns, [run.row() for run in found])
    figures = {
        "procedures": len(names),
        "runs": len(found),
        "equal_digests": sum(run.has_equal_digests for run in found),
        "equal_decisions": sum(run.has_equal_decisions for run in found),
        "kills": sum(run.kills for run in found),
        "kills_per_run_min": min(run.kills for run in found),
    }
    print_figures("steering_kills", figures)
    if not all(run.has_equal_digests and run.has_equal_decisions for run in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
