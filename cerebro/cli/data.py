"""`cerebro ingest` and `append`: from files to shards."""

from pathlib import Path
from typing import Annotated

import typer

from cerebro.cli.options import Json
from cerebro.errors import DataError


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(ingest)
    app.command()(append)


def ingest(
    source: Annotated[Path, typer.Argument(help="Parquet or CSV files or a folder of them, or an .npz file.")],
    destination: Annotated[Path, typer.Argument(help="Folder to make, such as posture.shards.")],
    shards: Annotated[int, typer.Option(help="Train shards, of equal size.")] = 8,
    label: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose values stay within one split.")] = None,
    split: Annotated[str, typer.Option(help="Shares of train, valid and test.")] = "0.7,0.15,0.15",
    stratify: Annotated[bool, typer.Option(help="Keep the shares of the label's classes in every split.")] = False,
    columns: Annotated[str | None, typer.Option(help="Columns to keep, with commas between; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the destination if it exists.")] = False,
    json: Json = False,
) -> None:
    """Shuffle a dataset once and cut it into shards."""
    from cerebro.report.bar import StageBar
    from cerebro.storage.ingest import ingest as make_shards

    with StageBar() as bar:
        dataset = make_shards(
            source,
            destination,
            shards=shards,
            label=label,
            group=group,
            split=_shares(split),
            stratify=stratify,
            columns=columns.split(",") if columns else None,
            seed=seed,
            overwrite=overwrite,
            progress=bar.show,
        )
    if json:
        typer.echo((dataset.path / "manifest.json").read_text())
    else:
        typer.echo(dataset.describe())


def append(
    file: Annotated[Path, typer.Argument(help="Python file that defines `experiment = cerebro.Experiment(...)`.")],
    source: Annotated[Path, typer.Argument(help="New rows, in files such as `ingest` takes.")],
    json: Json = False,
) -> None:
    """Let new rows join the dataset of an experiment; its next run is a new cycle."""
    from cerebro.session.source import load_experiment

    dataset = load_experiment(file).append(source)
    if json:
        typer.echo((dataset.path / "manifest.json").read_text())
    else:
        typer.echo(dataset.describe())


def _shares(text: str) -> tuple[float, float, float]:
    parts = text.split(",")
    try:
        train, valid, test = map(float, parts)
    except ValueError:
        raise DataError(f"--split {text}: give three numbers with commas between, such as 0.7,0.15,0.15") from None
    return train, valid, test
