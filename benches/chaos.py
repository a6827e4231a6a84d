"""Does anything get lost when the plug is pulled, again and again?

Twelve models, four shards, three epochs on two workers, killed with signal 9 at random moments of the trace: the
driver, a worker, or the driver and all workers. After each kill the same command is run again. In the end the digest
of every model must be that of the undisturbed run, and nothing may be left behind. Then: how long until a killed worker
is replaced, and until a driver that is started again on 16 models launches its first unit?

`resume_wall_seconds` is that time from the start of the process on. What any program that uses torch has to wait for
is measured beside it, in turns: `interpreter_start_seconds`, a Python that imports torch and ends. `resume_seconds` is
what remains in the same round. The fork server loads torch, and more of it, at the same time.

With `--full-disk 4` another question instead: a file system that grows by 4 KiB, one page, each time that a run of
four models fails because it is full, so that each write of the run is once the one that fails. After each failure the
catalog must agree with its seals, every state that it names must be sound, and no finished unit may be lost; in the end
the digests are those of the undisturbed run. It needs to mount a tmpfs, which only root may.
"""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from driven import write_experiment
from harness import arguments, print_figures, print_table, timed

import cerebro
from cerebro.session.source import load_experiment
from cerebro.storage.store import Store
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


def make_data(folder: Path, rows: int) -> Path:
    random = np.random.RandomState(0)
    label = random.randint(0, 4, rows)
    x = random.randn(rows, 32).astype(np.float32)
    x[:, :4] += np.eye(4, dtype=np.float32)[label]
    data = folder / "chaos.shards"
    cerebro.ingest({"x": x, "label": label}, data, shards=4, label="label", split=(0.9, 0.1, 0.0))
    return data


def declared(folder: Path, name: str, data: Path, models: int, epochs: int) -> Path:
    search = f'cerebro.Grid({{"width": [64, 128], "lr": [0.001 * (i + 1) for i in range({models // 2})]}})'
    return write_experiment(folder / f"{name}.py", "chaos", data, search, epochs=epochs, batch_size=16)


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


def interpreter_start() -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def resume_seconds(subject: Subject, times: int) -> list[tuple[float, float]]:
    """From the start of a driver's process to its first launch, after a former one was killed.

    Beside each, in the same round: from the start of a Python to the end of its import of torch.
    """
    found = list[tuple[float, float]]()
    random = Random(0)
    for number in range(times + 1):
        start = timed(interpreter_start)
        with running(subject) as driver:
            for _ in range(3):
                first_read(driver, "UnitFinished")
            driver.kill("both", random)
            driver.wait()
        seconds = first_launch_seconds(driver)
        if number and seconds is not None:
            found.append((seconds, start))
    return found


_KIB_MAX = 1 << 16


@dataclass
class Filled:
    """What became of an experiment on a disk that was full again and again."""

    failures: Counter[str] = field(default_factory=Counter[str])
    """By what could not be written."""
    units: int = 0
    units_lost: int = 0
    kib: int = 0


@contextmanager
def growing_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A file system in memory; gives what changes its size, in KiB."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder))
    try:
        yield lambda kib: mount("-o", f"remount,size={kib}k", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # also where an error on its way keeps files open


def mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", None) or str(error)
        sys.exit(f"--full-disk mounts a tmpfs, and this process may not: {said.strip()}. Run it as root")


def failure_of(experiment: cerebro.Experiment, store: Path) -> str | None:
    """What could not be written, and by whom that was said; None if the experiment came to its end."""
    try:
        experiment.fit(engine="inline", workers=2, store=store, progress=False)
        return None
    except cerebro.StoreError as error:
        message = str(error)
    found = re.match(r"cannot write (the store|\S+?):? ", message)
    assert found is not None, message
    path = Path(found[1])
    return "a state" if path.suffix == ".state" else path.name


def units_of_sound(store: Path, name: str, roomy: Path) -> int:
    """How many units a catalog tells of; all that it tells is true. Looked at in a copy: a reader too needs room."""
    shutil.copytree(store, roomy)
    folder = Store(roomy).experiment(name)
    try:
        if not folder.exists:
            return 0
        with closing(folder.reader()) as reader:
            assert reader.query("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
            reader.check()
            for row in reader.rows("checkpoints"):
                folder.checkpoints.read(row["state_digest"])
            return len(reader.units())
    finally:
        shutil.rmtree(roomy)


def fill(file: Path, store: Path, step_kib: int) -> tuple[Filled, dict[str, tuple[str, str | None]], list[str]]:
    """Run an experiment again and again on a disk that has a little more room each time; gives also what is left."""
    experiment, filled = load_experiment(file), Filled(kib=step_kib)
    with growing_disk(store) as resize:
        resize(filled.kib)
        while (failure := failure_of(experiment, store)) is not None:
            filled.failures[failure] += 1
            units = units_of_sound(store, "chaos", store.with_name("roomy"))
            filled.units_lost += max(0, filled.units - units)
            filled.units = units
            filled.kib += step_kib
            assert filled.kib < _KIB_MAX, f"{failure} cannot be written, however much room there is"
            resize(filled.kib)
        return filled, digests(store, "chaos"), leftovers(store, "chaos")


def full_disk(step_kib: int) -> None:
    """The bench with `--full-disk`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = declared(folder, "chaos_four", make_data(folder, 2_000), models=4, epochs=2)
        assert failure_of(load_experiment(file), folder / "calm") is None
        undisturbed = digests(folder / "calm", "chaos")
        filled, found, left = fill(file, folder / "disk", step_kib)
    equal, failures = sum(found[model] == undisturbed[model] for model in undisturbed), filled.failures.total()
    rows = [
        ("runs", failures + 1, f"the last with {filled.kib} KiB, {step_kib} KiB more each time"),
        ("failures", failures, dict(filled.failures)),
        ("models with the bits of the undisturbed run", f"{equal} of {len(undisturbed)}", "goal: all"),
        ("finished units lost", filled.units_lost, "goal: 0"),
        ("leftover files", len(left), "goal: 0"),
    ]
    print_table("Filling the disk", ["what", "found", ""], rows)
    figures = {"runs": failures + 1, "failures": failures, "models": len(undisturbed), "equal_digests": equal}
    print_figures("full-disk", figures | {"units_lost": filled.units_lost, "leftovers": len(left)})
    if equal < len(undisturbed) or filled.units_lost or left:
        sys.exit(1)


def main() -> None:
    options = arguments(
        __doc__ or "",
        kills=(int, 50, "kills"),
        seed=(int, 0, "what is drawn comes from it"),
        **{"full-disk": (int, 0, "fill a disk instead, which grows by so many KiB after each failure")},
    )
    if options.full_disk:
        full_disk(options.full_disk)
        return
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
        rounds = resume_seconds(Subject(sixteen, "chaos", folder / "resume"), 2 if options.quick else 5)
        walls, starts = [wall for wall, _ in rounds], [start for _, start in rounds]
        resumed = [wall - start for wall, start in rounds]
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
        ("16 models go on after, s", statistics.median(walls), "from the start of the process"),
        ("a Python with torch starts in, s", statistics.median(starts), "in turns with the line above"),
        ("16 models go on after, beside that, s", statistics.median(resumed), "goal: 2"),
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
        "interpreter_start_seconds": statistics.median(starts),
        "resume_wall_seconds": statistics.median(walls),
        "resume_seconds": statistics.median(resumed),
        "resume_seconds_max": max(resumed),
    }
    print_figures("chaos", figures)
    if equal < len(undisturbed) or left or left_behind:
        sys.exit(1)


if __name__ == "__main__":
    main()
