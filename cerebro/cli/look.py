"""`cerebro leaderboard`, `importance`, `bill`, `events`, `top` and `report`: looking, without touching."""

import json as json_text
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from cerebro.cli.options import Json, Name, Store


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(leaderboard)
    app.command()(importance)
    app.command()(bill)
    app.command()(events)
    app.command()(top)
    app.command()(report)


def leaderboard(
    name: Name,
    each: Annotated[
        bool, typer.Option("--each", help="A row for each repeat of a config, not for their mean.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """The models of an experiment, best first."""
    rows = _result(name, store).leaderboard(each)
    if json:
        typer.echo(json_text.dumps(list(rows)))
        return
    rows.print()


def importance(name: Name, store: Store = None, json: Json = False) -> None:
    """How much of what the trained models differ in each hyper-parameter explains; needs Optuna."""
    found = _result(name, store).importance()
    if json:
        typer.echo(json_text.dumps(found))
        return
    width = max(map(len, found))
    for dimension, share in found.items():
        typer.echo(f"{dimension:<{width}}  {share:.3f}")


def bill(name: Name, store: Store = None, json: Json = False) -> None:
    """What an experiment cost, and on what that was spent: the winner, the others, stopped and failed models."""
    from cerebro.report.bill import bill as billed
    from cerebro.report.bill import print_bill

    with closing(_result(name, store).folder.reader()) as reader:
        found = billed(reader)
    if json:
        typer.echo(json_text.dumps(found.describe()))
        return
    print_bill(found)


def events(
    name: Name,
    after: Annotated[int, typer.Option(help="Only events with a higher number.")] = 0,
    store: Store = None,
    json: Json = False,
) -> None:
    """What happened, oldest first."""
    with closing(_result(name, store).folder.reader()) as reader:
        rows = reader.events(after)
    if json:
        typer.echo(json_text.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("seq", "time", "actor", "event", "what", box=None, header_style="bold")
    for row in rows:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["ts"]))
        table.add_row(str(row["seq"]), clock, row["actor"], row["kind"], _what(row["body"]))
    Console().print(table)


def top(
    name: Name, store: Store = None, once: Annotated[bool, typer.Option(help="Print once and end.")] = False
) -> None:
    """Watch an experiment that is running: models, progress, time left, workers."""
    from cerebro.report.top import watch

    folder = _result(name, store).folder
    with closing(folder.reader()) as reader:
        watch(reader, once=once)


def report(
    name: Name,
    store: Store = None,
    output: Annotated[Path | None, typer.Option(help="File to write; report.html in the experiment's folder.")] = None,
) -> None:
    """Write a web page with the leaderboard, the learning curves and the schedule."""
    from cerebro.report.page import write_page

    typer.echo(write_page(_result(name, store).folder.path, output))


def _what(body: dict[str, Any]) -> str:
    return "  ".join(f"{key}={value}" for key, value in body.items() if not isinstance(value, dict))


def _result(name: str, store: str | None) -> Any:
    from cerebro.session.result import Result
    from cerebro.storage.store import Store as Experiments

    folder = Experiments(store).experiment(name)
    folder.reader().close()
    return Result(folder)
