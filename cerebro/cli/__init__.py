"""The command line: `cerebro COMMAND`; each file here holds a few related commands."""

import sys

import typer

from cerebro.cli import audit, data, look, models, run, steer
from cerebro.errors import CerebroError

app = typer.Typer(
    name="cerebro",
    help="Train many models over one sharded dataset, and trust the winner.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for group in (data, run, look, models, steer, audit):
    group.register(app)


def main() -> None:
    """Run the command line; errors that Cerebro foresees are one message, not a traceback."""
    try:
        app()
    except CerebroError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(1)
