"""`cerebro explain`, `run` and `demo`: planning and training."""

import inspect
import json as json_text
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from cerebro.cli.options import (
    Device,
    Engine,
    Features,
    Fork,
    Fuse,
    Json,
    Models,
    Policy,
    ShardMemory,
    Store,
    Tapes,
    Workers,
)

File = Annotated[Path, typer.Argument(help="Python file that defines `experiment = cerebro.Experiment(...)`.")]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="time=2h,epochs=40",
        help="What may be spent: time, epochs, models, dollars (with a price for an hour of one worker), kwh.",
    ),
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how an experiment is run: the options that `explain` and `run` have in common."""

    workers: Workers = None
    engine: Engine = "local"
    device: Device = "auto"
    policy: Policy = "longest-remaining"
    features: Features = "auto"
    fuse: Fuse = True
    fork: Fork = True
    tapes: Tapes = True
    shard_memory: ShardMemory = None
    budget: BudgetText = None
    models: Models = None
    store: Store = None


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(_with_run_options(explain))
    app.command()(_with_run_options(run))
    app.command()(demo)


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `RunOptions` in the place of its parameter `options`."""
    names = [field.name for field in fields(RunOptions)]

    @wraps(command)
    def expanded(**given: Any) -> None:
        command(options=RunOptions(**{name: given.pop(name) for name in names}), **given)

    own = inspect.signature(command, eval_str=True).parameters
    shared = list(inspect.signature(RunOptions, eval_str=True).parameters.values())
    parameters = [each for name in own for each in (shared if name == "options" else [own[name]])]
    signature = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters])
    expanded.__dict__["__signature__"] = signature
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE|NAME", help="A file as for `run`, or an experiment's name.")],
    options: RunOptions,
    stage: Annotated[str, typer.Option(help="logical, physical or actual.")] = "physical",
    why: Annotated[bool, typer.Option("--why", help="Show what was weighed, and why not the others.")] = False,
    json: Json = False,
) -> None:
    """Show the plan and what it will cost, or what was planned and what it cost; nothing is trained."""
    from cerebro.session.planning import planned_text
    from cerebro.session.source import load_experiment
    from cerebro.storage.store import Store as Experiments

    if _is_name(file):
        text = planned_text(Experiments(options.store).experiment(str(file)), why)
    else:
        text = load_experiment(file).explain(stage, why=why, **asdict(options))
    typer.echo(json_text.dumps({"stage": stage, "plan": text.splitlines()}) if json else text)


def _is_name(file: Path) -> bool:
    """Whether an experiment is named, and no file."""
    return len(file.parts) == 1 and not file.suffix and not file.exists()


def run(file: File, options: RunOptions, json: Json = False) -> None:
    """Train every model of an experiment; again, it goes on where it was interrupted."""
    from cerebro.session.experiment import load_ahead
    from cerebro.session.source import load_experiment

    if options.engine == "local" and file.is_file():
        load_ahead()
    experiment = load_experiment(file)
    if options.engine == "simulated":
        _simulate(experiment, options, json)
        return
    try:
        result = experiment.fit(**asdict(options))
    except KeyboardInterrupt:
        typer.echo("interrupted: what was finished is kept; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    _show(result.leaderboard(), json)


def demo(workers: Workers = None, store: Store = None) -> None:
    """Train 16 models on real accelerometer recordings, in under three minutes."""
    from dataclasses import replace

    from cerebro.errors import DataError
    from cerebro.report.page import write_page
    from cerebro.session.source import load_experiment
    from cerebro.storage.store import Store as Experiments

    file = Path(__file__).parent.parent / "demo" / "posture.py"
    declared = load_experiment(file)
    root = Experiments(store).root
    shards = root / "demo.shards"
    if not shards.exists():
        posture = _module_of(declared)
        try:
            typer.echo(posture.make_shards(shards).describe())
        except FileNotFoundError as error:
            raise DataError(str(error)) from None
    experiment = replace(declared, name="demo", data=shards)
    typer.echo(experiment.explain(workers=workers, store=store))
    result = experiment.fit(workers=workers, store=store)
    _show(result.leaderboard(), False)
    typer.echo(f"report: {write_page(result.folder.path)}")


def _module_of(experiment: Any) -> Any:
    import sys

    return sys.modules[experiment.build.__module__]


def _simulate(experiment: Any, options: RunOptions, json: bool) -> None:
    from cerebro.quantities import count_text, seconds_text

    found = experiment.forecast(
        workers=options.workers, device=options.device, policy=options.policy, store=options.store
    )
    seconds, bound = found.makespan_seconds, found.lower_bound_seconds
    busy = sum(entry.end - entry.start for entry in found.entries)
    count = len({entry.worker for entry in found.entries})
    if json:
        figures = {"seconds": seconds, "lower_bound_seconds": bound, "units": len(found.entries), "workers": count}
        typer.echo(json_text.dumps(figures))
        return
    typer.echo(
        f"simulated: {seconds_text(seconds)} for {count_text(len(found.entries), 'unit')} on "
        f"{count_text(count, 'worker')}, busy {busy / (seconds * count):.0%}; "
        f"no schedule is shorter than {seconds_text(bound)}"
    )


def _show(leaderboard: Any, json: bool) -> None:
    if json:
        typer.echo(json_text.dumps(list(leaderboard)))
        return
    leaderboard.print()
