"""What does it cost that nothing is lost?

The demo's sixteen models on two workers, once as always and once with a log that keeps nothing: no state is hashed or
written, no unit gets a row. Everything else is the same, and the two take turns. Wall time is what counts; the
processor time of the driver, which does all of that work, depends less on what else the machine is doing. What it is
more with a memory, beside all that the workers' cores could give in the fastest run without one, is `driver_share`.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

from harness import arguments, interleaved, median_ratio, print_figures, print_table, timed

import cerebro
from cerebro.demo import posture

WORKERS = 2


class Forgetful:
    """A recorder that lets go of everything at once."""

    def __init__(self, *arguments: object, **named: object) -> None:
        """Take what a recorder takes."""

    def record(self, event: object, state: object) -> None:
        if state is not None:
            state.release()

    def make_room(self, units: int) -> None:
        """There is always room."""

    def settle(self) -> None:
        """Nothing waits."""

    def written(self) -> Callable[[], bool]:
        """Nothing is ever durable: the engine is to keep what it has."""
        return lambda: False

    def finish_writing(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is left to be written."""


class Contenders:
    """The same run with a memory and without one, each time in a store of its own."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder, self.runs = folder, 0
        self.driver_seconds: dict[str, list[float]] = {"durable": [], "forgetful": []}
        posture.make_shards(folder / "posture.shards")
        self.experiment = cerebro.Experiment(
            "durability",
            data=folder / "posture.shards",
            build=posture.build,
            search=posture.experiment.search,
            epochs=epochs,
            metric="accuracy",
            mode="max",
        )

    def durable(self) -> float:
        return timed(lambda: self.run("durable"))

    def forgetful(self) -> float:
        with patch("cerebro.session.run.Recorder", Forgetful):
            return timed(lambda: self.run("forgetful"))

    def run(self, who: str) -> None:
        self.runs += 1
        store, pilots = self.folder / f"store-{self.runs}", self.folder / "pilots"
        store.mkdir()
        pilots.mkdir(exist_ok=True)
        os.symlink(pilots, store / ".pilots")
        before = time.process_time()
        self.experiment.fit(workers=WORKERS, store=store, progress=False)
        self.driver_seconds[who].append(time.process_time() - before)


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds=(int, 7, "rounds"),
        epochs=(int, posture.experiment.epochs, "epochs of each model"),
        folder=(str, None, "where the stores are made: on a disk, not in memory"),
    )
    rounds, epochs = (2, 1) if options.quick else (options.rounds, options.epochs)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        contenders = Contenders(Path(name), epochs)
        contenders.forgetful()  # starts the fork server, and remembers the pilot
        contenders.driver_seconds["forgetful"].clear()
        seconds = interleaved({"durable": contenders.durable, "forgetful": contenders.forgetful}, rounds)
    rows = [
        (who, median(times), min(times), max(times), median(contenders.driver_seconds[who]))
        for who, times in seconds.items()
    ]
    title = f"The demo, {epochs} epochs, {rounds} rounds"
    print_table(title, ["run", "seconds", "least", "most", "processor seconds of the driver"], rows)
    within = median_ratio(seconds["durable"], seconds["forgetful"])
    of_medians = median(seconds["durable"]) / median(seconds["forgetful"])
    more = median(contenders.driver_seconds["durable"]) - median(contenders.driver_seconds["forgetful"])
    share = more / (WORKERS * min(seconds["forgetful"]))
    columns = ["ratio of medians", "median ratio in a round", "more of the driver's seconds, of all"]
    print_table("Durable against forgetful", columns, [(of_medians, within, share)])
    figures = {"demo_ratio": of_medians, "demo_ratio_in_a_round": within}
    print_figures("durability", figures | {"driver_seconds_more": more, "driver_share": share})


if __name__ == "__main__":
    main()
