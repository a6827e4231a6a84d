"""Does anything get lost when the plug is pulled, again and again?

Twelve models, four shards, three epochs on two workers, killed with signal 9 at random moments of the trace: the
driver, a worker, or the driver and all workers. After each kill the same command is run again. In the end the digest
of every model must be that of the undisturbed run, and nothing may be left behind. Then: how long until a killed worker
is replaced, and until a driver that is started again on 16 models launches its first unit?
"""

import statistics
import sys
import tempfile
from pathlib import Path
from random import Random

import numpy as np
from harness import arguments, print_figures, print_table

import cerebro
from cerebro.testing.faults import (
    Chaos,
    Driver,
    Subject,
    digests,
    first_launch_seconds,
    leftovers,
    orphans,
    recoveries,
    run,
    running,
)

EXPERIMENT = """
from functools import partial
from pathlib import Path
import torch
import torch.nn.functional as F
import cerebro

def build(config):
    return cerebro.Learner(
        module=torch.nn.Sequential(
            torch.nn.Linear(32, config["width"]), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Linear(config["width"], 4),
        ),
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=16,
        metrics={{"accuracy": cerebro.metrics.accuracy("label")}},
    )

experiment = cerebro.Experiment(
    "chaos", data=Path({data!r}), build=build,
    search=cerebro.Grid({{"width": [64, 128], "lr": [0.001 * (i + 1) for i in range({rates})]}}),
    epochs={epochs}, metric="accuracy", mode="max",
)
"""


def make_data(folder: Path, rows: int) -> Path:
    random = np.random.RandomState(0)
    label = random.randint(0, 4, rows)
    x = random.randn(rows, 32).astype(np.float32)
    x[:, :4] += np.eye(4, dtype=np.float32)[label]
    data = folder / "chaos.shards"
    cerebro.ingest({"x": x, "label": label}, data, shards=4, label="label", split=(0.9, 0.1, 0.0))
    return data


def declared(folder: Path, name: str, data: Path, models: int, epochs: int) -> Path:
    file = folder / f"{name}.py"
    file.write_text(EXPERIMENT.format(data=str(data), rates=models // 2, epochs=epochs))
    return file


def first_read(driver: Driver, what: str) -> None:
    """Read the trace until something has happened that was not there before."""
    count = sum(line.what == what for line in driver.lines)
    while sum(line.what == what for line in driver.lines) == count and driver.read(len(driver.lines) + 1):
        pass


def recovery_seconds(subject: Subject, kills: int) -> list[float]:
    """From the loss of a worker to its replacement, for one kill after another in an undisturbed driver."""
    random = Random(0)
    with running(subject) as driver:
        first_read(driver, "UnitFinished")
        for _ in range(kills):
            driver.kill("worker", random)
            first_read(driver, "WorkerLost")
            for _ in range(3):
                first_read(driver, "UnitFinished")
        driver.wait()
    return recoveries(driver.lines)


def resume_seconds(subject: Subject, times: int) -> list[float]:
    """From the start of a driver's own work to its first launch, after a former one was killed."""
    found = list[float]()
    random = Random(0)
    for number in range(times + 1):
        with running(subject) as driver:
            for _ in range(3):
                first_read(driver, "UnitFinished")
            driver.kill("both", random)
            driver.wait()
        seconds = first_launch_seconds(driver.lines)
        if number and seconds is not None:
            found.append(seconds)
    return found


def main() -> None:
    options = arguments(__doc__ or "", kills=(int, 50, "kills"), seed=(int, 0, "what is drawn comes from it"))
    kills, rows = (6, 8_000) if options.quick else (options.kills, 24_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, rows)
        file = declared(folder, "chaos_twelve", data, models=12, epochs=3)
        calm = Subject(file, "chaos", folder / "calm")
        status, said = run(calm)
        assert status == 0, said
        undisturbed = digests(calm.store, "chaos")

        subject = Subject(file, "chaos", folder / "store")
        chaos = Chaos(subject, options.seed, lines_max=6 if options.quick else 14)
        chaos.run(kills)
        found = digests(subject.store, "chaos")
        equal = sum(found[model] == undisturbed[model] for model in undisturbed)
        left = leftovers(subject.store, "chaos")

        times = 2 if options.quick else 9
        recovery = recovery_seconds(Subject(file, "chaos", folder / "recovery"), times)
        sixteen = declared(folder, "chaos_sixteen", data, models=16, epochs=3)
        resumed = resume_seconds(Subject(sixteen, "chaos", folder / "resume"), 2 if options.quick else 5)
        left_behind = chaos.left_behind + orphans(folder / "resume")

    finished, launched = chaos.lost("UnitFinished"), chaos.lost("Launch")
    deaths = sum(line.what == "WorkerLost" for segment in chaos.segments for line in segment.lines)
    rows_ = [
        ("kills", chaos.victims.total(), dict(chaos.victims)),
        ("drivers started", len(chaos.segments), f"{deaths} deaths of workers that a driver survived"),
        ("models with the bits of the undisturbed run", f"{equal} of {len(undisturbed)}", "goal: all"),
        ("finished units run again, worst kill", max(finished), f"goal: {subject.workers}, one for each worker"),
        ("finished units run again, mean", statistics.fmean(finished), ""),
        ("launched units run again, worst kill", max(launched), "with those that were running"),
        ("orphans, after 2 s", len(left_behind), "goal: 0"),
        ("leftover files", len(left), "goal: 0"),
        ("a killed worker is replaced, ms", statistics.median(recovery) * 1e3, "goal: 200"),
        ("16 models go on after, s", statistics.median(resumed), "goal: 2, beside the interpreter's start"),
    ]
    print_table("Pulling the plug", ["what", "found", ""], rows_)
    figures = {
        "kills": chaos.victims.total(),
        "models": len(undisturbed),
        "equal_digests": equal,
        "units_rerun_per_kill_max": max(finished),
        "units_rerun_per_kill_and_worker_max": -(-max(finished) // subject.workers),
        "launches_repeated_per_kill_max": max(launched),
        "orphans": len(left_behind),
        "leftovers": len(left),
        "recovery_ms_median": statistics.median(recovery) * 1e3,
        "recovery_ms_max": max(recovery) * 1e3,
        "resume_seconds": statistics.median(resumed),
        "resume_seconds_max": max(resumed),
    }
    print_figures("chaos", figures)
    if equal < len(undisturbed) or left or left_behind:
        sys.exit(1)


if __name__ == "__main__":
    main()
