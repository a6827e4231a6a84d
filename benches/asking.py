"""What does deciding cost with thousands of models: microseconds to ask and tell, bytes to remember?

Asking and telling: a procedure is answered at once, for 1,000 models and more. Of its own procedures the mean over a
whole run counts, of TPE, which gets slower with every model that it has seen, the mean at 1,000.

Remembering: searches of 5,000 models on the simulated engine, each in a process of its own, with procedure, steering,
scheduler, executor and engine; what the process has grown by, for each model. And, but for `--quick`, the driver of a
real run, with catalog and recorder, of which the engine alone is simulated.
"""

import gc
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import arguments, print_figures, print_table, timed

import cerebro
from cerebro.commands import Add, Clone, Stop
from cerebro.control.procedure import Procedure, Result, Terms
from cerebro.control.procedures import (
    ASHA,
    PBT,
    Grid,
    Hyperband,
    MedianStopping,
    OptunaSearch,
    Random,
    SuccessiveHalving,
)
from cerebro.testing.simulated_search import Setting, SimulatedSearch

SPACE = {"lr": cerebro.loguniform(1e-5, 1e-1), "drop": cerebro.uniform(0, 0.5), "width": [16, 32], "n": [1, 2, 3]}
CONDITIONAL = {
    "lr": cerebro.loguniform(1e-5, 1e-1),
    "width": [16, 32, 64],
    "net": [{"kind": "mlp", "drop": cerebro.uniform(0, 0.5)}, {"kind": "cnn", "kernel": cerebro.randint(3, 8)}],
}
LISTED = {"a": list(range(10)), "b": list(range(100))}
SEEN, ASKED, TPE_LANES = 1000, 50, 4
OWN: Mapping[str, tuple[Callable[[], Procedure], int]] = {
    "Grid": (lambda: Grid(LISTED), 27),
    "Random": (lambda: Random(SPACE, models=SEEN), 27),
    "SuccessiveHalving": (lambda: SuccessiveHalving(SPACE, models=SEEN, max_epochs=27), 27),
    "Hyperband": (lambda: Hyperband(SPACE, max_epochs=729), 729),
    "ASHA": (lambda: ASHA(SPACE, models=SEEN, max_epochs=27), 27),
    "PBT": (lambda: PBT(SPACE, population=SEEN, interval=9), 27),
    "MedianStopping": (lambda: MedianStopping(SPACE, models=SEEN), 27),
}
"""The procedures of Cerebro itself, and the last epoch."""

MANY, MANY_EPOCHS = 5000, 27
SEARCHES: Mapping[str, Callable[[int], Procedure]] = {
    "Random": lambda models: Random(SPACE, models=models),
    "ASHA": lambda models: ASHA(SPACE, models=models, max_epochs=MANY_EPOCHS),
    "MedianStopping": lambda models: MedianStopping(SPACE, models=models),
}
DRIVER_EPOCHS = 9
GOAL_BYTES = 20_000


def deciding_us(procedure: Procedure, epochs: int) -> tuple[float, int]:
    """Microseconds in `ask` and `tell` for each result, and how many results there were."""
    procedure.begin(Terms(0, "max", epochs))
    under_way, begun, told, spent = deque[tuple[str, int]](), 0, 0, 0.0
    while True:
        while len(under_way) < (procedure.lanes or 16):
            started = time.perf_counter()
            decision = procedure.ask(fresh := f"m{begun:05d}")
            spent += time.perf_counter() - started
            if decision is None:
                break
            command = decision.command
            assert not isinstance(command, Stop), "only `tell` gives one"
            new = isinstance(command, Add | Clone)
            begun += new
            under_way.append((fresh if new else command.model, command.until or epochs))
        if not under_way:
            return 1e6 * spent / told, told
        model, until = under_way.popleft()
        result = Result(model, {}, until, (int(model[1:]) * 7919 + until * 31) % 997 / 997)
        spent += timed(lambda: procedure.tell(result))  # noqa: B023 - it is called at once
        told += 1


def tpe_ask_ms(space: Mapping[str, Any]) -> float:
    """Mean milliseconds of an ask when `SEEN` models have come to their end."""
    search = OptunaSearch(space, models=SEEN + ASKED, lanes=TPE_LANES)
    search.begin(Terms(0, "max", 9))
    under_way, asks = deque[tuple[str, Mapping[str, Any]]](), list[float]()
    for number in range(SEEN + ASKED):
        started = time.perf_counter()
        decision = search.ask(model := f"m{number:05d}")
        asks.append(time.perf_counter() - started)
        assert decision is not None
        assert isinstance(decision.command, Add)
        under_way.append((model, decision.command.config))
        if len(under_way) == TPE_LANES:
            model, config = under_way.popleft()
            search.tell(Result(model, config, 9, -abs(config["lr"] - 0.01) - int(model[1:]) % 97 / 1000))
    return 1e3 * statistics.fmean(asks[SEEN:])


class Forgetful(SimulatedSearch):
    """Keeps nothing of its own: only what those under it remember counts."""

    def record(self, event: Any, state: Any) -> None: ...


def search_bytes(name: str, models: int) -> float:
    """Bytes that this process has grown by in a search, for each model."""
    setting = Setting(lambda config, epoch: config["lr"] * epoch, workers=8)
    before = resident_bytes()
    run = Forgetful(SEARCHES[name](models), Terms(0, "max", MANY_EPOCHS), setting)
    assert len(run.configs) == models, "all have begun"
    return (resident_bytes() - before) / models


def driver_bytes(models: int) -> float:
    """The same of the driver of a real run, with catalog and recorder, on the simulated engine."""
    import numpy as np

    from cerebro.engines.simulated import SimulatedEngine
    from cerebro.session import experiment as session

    session.ENGINES["inline"] = lambda: SimulatedEngine(lambda unit: 1.0)
    with tempfile.TemporaryDirectory() as name:
        columns = {"x": np.zeros((20, 1), np.float32), "y": np.arange(20) % 2}
        data = cerebro.ingest(columns, Path(name) / "few.shards", shards=1, label="y", split=(0.5, 0.5, 0)).path
        search = ASHA(SPACE, models=models, max_epochs=DRIVER_EPOCHS)
        experiment = cerebro.Experiment(
            "many", data=data, build=dict, search=search, epochs=DRIVER_EPOCHS, metric="loss", mode="min"
        )
        experiment.explain("logical")  # what is loaded once is loaded now
        before = resident_bytes()
        result = experiment.fit(engine="inline", workers=8, store=Path(name) / "store", progress=False)
        grown = resident_bytes() - before
        assert len(result.leaderboard()) == models, "all have begun"
        return grown / models


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024


def in_a_process_of_its_own(work: Callable[..., float], *arguments: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    options = arguments(__doc__ or "", models=(int, MANY, "models of the searches whose memory is measured"))
    deciding = {name: deciding_us(make(), epochs) for name, (make, epochs) in OWN.items()}
    print_table(
        "To ask and to tell, for each result",
        ["procedure", "results", "us", "goal us"],
        [(name, told, us, 1000) for name, (us, told) in deciding.items()],
    )
    tpe = {"four dimensions": tpe_ask_ms(SPACE), "two conditional sub-spaces": tpe_ask_ms(CONDITIONAL)}
    print_table(
        f"TPE, an ask after {SEEN:,} models", ["space", "ms", "goal ms"], [(name, ms, 10) for name, ms in tpe.items()]
    )
    models = options.models
    grown = {name: in_a_process_of_its_own(search_bytes, name, models) for name in SEARCHES}
    rows = [(name, MANY_EPOCHS, round(each), GOAL_BYTES) for name, each in grown.items()]
    figures = {
        "own_ask_us_max": max(us for us, _ in deciding.values()),
        f"tpe_ask_ms_{SEEN}": tpe["four dimensions"],
        f"tpe_ask_ms_{SEEN}_conditional": tpe["two conditional sub-spaces"],
        f"bytes_per_model_{models}": max(grown.values()),
    }
    if not options.quick:
        driver = in_a_process_of_its_own(driver_bytes, models)
        rows.append(("ASHA, the driver of a run", DRIVER_EPOCHS, round(driver), GOAL_BYTES))
        figures[f"driver_bytes_per_model_{models}"] = driver
    print_table(f"{models:,} models", ["search", "epochs", "bytes for each model", "goal"], rows)
    print_figures("asking", figures)


if __name__ == "__main__":
    main()
