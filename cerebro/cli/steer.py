"""`cerebro stop`, `resume`, `clone`, `extend`, `add`, `finish`, `note` and `why`: steering an experiment.

While it runs, a command takes effect at the end of a unit; otherwise the next run applies it.
"""

import json as json_text
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cerebro.cli.models import Model
from cerebro.cli.options import Json, Name, Store
from cerebro.errors import SpecError

Reason = Annotated[str, typer.Option("--note", help="Why, for the log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do and cost.")]
Changes = Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Such as lr=1e-4 optimizer.l2=0.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (stop, resume, clone, extend, add, finish, note, why):
        app.command()(command)


def stop(
    name: Name, model: Model, note: Reason = "", dry_run: DryRun = False, store: Store = None, json: Json = False
) -> None:
    """Train a model no further; it can be resumed."""
    _show(_handle(name, store).stop(model, note, dry_run=dry_run), json)


def resume(
    name: Name,
    model: Model,
    until: Annotated[int | None, typer.Option(help="The epoch at whose end it pauses; the last, by default.")] = None,
    note: Reason = "",
    dry_run: DryRun = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Go on with a model that was stopped or is paused."""
    _show(_handle(name, store).resume(model, until, note, dry_run=dry_run), json)


def clone(
    name: Name,
    model: Model,
    changes: Changes = None,
    warm: Annotated[bool, typer.Option("--warm/--cold", help="From its newest state, or from initialisation.")] = True,
    optimizer: Annotated[str, typer.Option(help="keep or reset what its optimizer remembers (warm only).")] = "keep",
    note: Reason = "",
    dry_run: DryRun = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Train a new model with the config of another but for some changes."""
    if optimizer not in ("keep", "reset"):
        raise SpecError(f"--optimizer: {optimizer!r} is not keep or reset; a hyper-parameter goes without the dashes")
    said, handle = values_of("clone", changes or []), _handle(name, store)
    _show(handle.clone(model, said, warm=warm, optimizer=optimizer, note=note, dry_run=dry_run), json)


def extend(
    name: Name,
    model: Model,
    epochs: Annotated[int, typer.Option(help="How many epochs more than it was to be trained for.")],
    note: Reason = "",
    dry_run: DryRun = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Train a model for more epochs, also when it has finished."""
    _show(_handle(name, store).extend(model, epochs, note, dry_run=dry_run), json)


def add(
    name: Name,
    values: Changes = None,
    from_space: Annotated[
        list[str] | None,
        typer.Option(help="NAME=LOW..HIGH, or NAME=[A,B,C] to choose from; again for each further name."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--count", "-n", help="How many models to draw from the space; 1 by default.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="The model whose config gives what is not said.")] = None,
    log: Annotated[
        bool | None, typer.Option("--log/--linear", help="How to draw; --log from LOW to 10 LOW or more, by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    note: Reason = "",
    dry_run: DryRun = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Train a new model of this config, or several that are drawn from a space."""
    from cerebro.spec.space import choice

    said, handle = values_of("add", values or []), _handle(name, store)
    if not from_space:
        if n is not None or log is not None:
            raise SpecError("add: -n, --log and --linear say how to draw: give --from-space NAME=LOW..HIGH too")
        _show(handle.add(handle.config(said, like), note, dry_run=dry_run), json)
        return
    fixed = {name: choice([value]) for name, value in said.items()}  # a list is a value here
    space = {**fixed, **space_of(from_space, log)}
    replies = handle.add_from_space(space, 1 if n is None else n, like, seed, note, dry_run=dry_run)
    typer.echo(json_text.dumps(list(map(asdict, replies))) if json else "\n".join(map(str, replies)))


def finish(name: Name, note: Reason = "", dry_run: DryRun = False, store: Store = None, json: Json = False) -> None:
    """Begin nothing more: what runs ends its unit, everything else stays where it is."""
    _show(_handle(name, store).finish(note, dry_run=dry_run), json)


def note(
    name: Name,
    text: Annotated[str, typer.Argument(help="What to write into the log.")],
    model: Annotated[str | None, typer.Option(help="The model that it is about.")] = None,
    dry_run: DryRun = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Write something into the log."""
    _show(_handle(name, store).note(text, model, dry_run=dry_run), json)


def why(name: Name, model: Model, store: Store = None, json: Json = False) -> None:
    """Everything that was decided about a model: by whom, and from what."""
    found = _handle(name, store).why(model)
    typer.echo(json_text.dumps(found.as_json()) if json else str(found))


def values_of(what: str, words: Sequence[str]) -> dict[str, Any]:
    """What `NAME=VALUE` words say; a value is JSON, else text.

    Raises:
        SpecError: a word without `=`, or a name twice.
    """
    found = dict[str, Any]()
    for name, text in _pairs(what, words):
        found[name] = _value(text)
    return found


def space_of(words: Sequence[str], log: bool | None) -> dict[str, Any]:
    """The space that `NAME=LOW..HIGH` and `NAME=[A,B,C]` words say; whole bounds are both included.

    Floats are drawn in their logarithm if `log`, or where they span a factor of ten and `log` is None; whole numbers
    if `log`.

    Raises:
        SpecError: a word that says neither.
    """
    return {name: _dimension(name, text, log) for name, text in _pairs("--from-space", words)}


def _dimension(name: str, text: str, log: bool | None) -> Any:
    from cerebro.spec.space import loguniform, randint, uniform

    low, dots, high = (_value(part) for part in text.partition(".."))
    if not dots:
        options = _value(text)
        if isinstance(options, list) and options:
            return options
    elif all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high)):
        if isinstance(low, int) and isinstance(high, int):
            return randint(low, high + 1, log=bool(log))
        is_wide = low > 0 and high / low >= 10
        return loguniform(low, high) if log or (log is None and is_wide) else uniform(low, high)
    raise SpecError(
        f"--from-space: {name}={text} is neither LOW..HIGH in numbers, as 1e-5..1e-3, nor a list, as [1,2,4]"
    )


def _pairs(what: str, words: Sequence[str]) -> list[tuple[str, str]]:
    found = dict[str, str]()
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise SpecError(f"{what}: {word!r} is not NAME=VALUE, such as lr=0.001")
        if name in found:
            raise SpecError(f"{what}: {name!r} is said twice")
        found[name] = text
    return list(found.items())


def _value(text: str) -> Any:
    try:
        return json_text.loads(text)
    except (ValueError, RecursionError):
        return text


def _handle(name: str, store: str | None) -> Any:
    from cerebro.session.handle import connect

    return connect(name, store)


def _show(reply: Any, json: bool) -> None:
    typer.echo(json_text.dumps(asdict(reply)) if json else str(reply))
