"""`cerebro replay` and `export`: what can be done with one trained model."""

import json as json_text
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from cerebro.cli.options import Json, Name, Store
from cerebro.errors import StoreError

Model = Annotated[str, typer.Argument(help="Id of a model, such as m007.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(replay)
    app.command()(export)


def replay(
    name: Name,
    model: Model,
    file: Annotated[Path | None, typer.Option(help="File that declares the experiment, if it was moved.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Train one model again, alone, from its lineage, and compare every unit."""
    from cerebro.report.bar import StageBar
    from cerebro.session.replay import replay as run_again
    from cerebro.storage.store import Store as Experiments

    folder = Experiments(store).experiment(name)
    experiment = declared(folder, file)
    with StageBar() as bar:
        found = run_again(folder, model, experiment, lambda done, total: bar.show(f"replay {model}", done, total))
    if json:
        difference = None if found.difference is None else str(found.difference)
        typer.echo(
            json_text.dumps(
                {"model": model, "identical": found.identical, "units": found.units, "difference": difference}
            )
        )
    else:
        typer.echo(str(found))
    if not found.identical:
        raise typer.Exit(3)


def export(
    name: Name,
    model: Model,
    directory: Annotated[Path, typer.Argument(help="Folder to make.")],
    file: Annotated[
        Path | None, typer.Option(help="File that declares the experiment, if it was moved; for frozen weights.")
    ] = None,
    store: Store = None,
) -> None:
    """Write a trained model as safetensors with a small model.json; `cerebro.load` reads it back."""
    from cerebro.session.export import export as write
    from cerebro.storage.store import Store as Experiments

    folder = Experiments(store).experiment(name)
    typer.echo(write(folder, model, directory, lambda: declared(folder, file)))


def declared(folder: Any, file: Path | None) -> Any:
    """The experiment as its file declares it now, under the name and dataset that it was run with."""
    from dataclasses import replace

    from cerebro.session.source import load_experiment

    with closing(folder.reader()) as reader:
        row = reader.experiment()
    source = file or (Path(row["source"]) if row["source"] else None)
    if source is None:
        raise StoreError(
            f"experiment {row['name']!r} was declared in a notebook or session: replay it there with "
            "`experiment.result().replay(model)`, or give --file"
        )
    experiment = load_experiment(source)
    return replace(experiment, name=row["name"], data=row["data"])
