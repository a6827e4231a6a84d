"""`cerebro doctor`, `lineage`, `diff` and `retry`: what can be trusted, where it comes from, and trying again."""

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cerebro.cli.models import Model, declared
from cerebro.cli.options import Json, Name, Store

NOT_COMPARABLE = 3
"""The exit status of `cerebro diff` where the results must not be compared."""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(lineage)
    app.command()(diff)
    app.command()(retry)
    app.command()(doctor)


def lineage(name: Name, model: Model, store: Store = None, json: Json = False) -> None:
    """Where a model comes from: config, data, code, seed, numerics, and every unit with its digests."""
    from cerebro.session.lineage import lineage as of

    found = of(_folder(name, store), model)
    typer.echo(json_text.dumps(found.as_json()) if json else str(found))


def diff(
    name: Name,
    model: Model,
    other: Annotated[str, typer.Argument(help="Id of another model; OTHER-NAME/MODEL for one of another experiment.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """What differs between two models, and whether their results may be compared; exit status 3 if not."""
    from cerebro.session.diff import diff as between
    from cerebro.session.lineage import lineage as of

    other_name, _, other_model = other.rpartition("/")
    first = of(_folder(name, store), model)
    found = between(first, of(_folder(other_name or name, store), other_model))
    typer.echo(json_text.dumps(found.as_json()) if json else str(found))
    if not found.comparable:
        raise typer.Exit(NOT_COMPARABLE)


def retry(
    name: Name,
    model: Model,
    file: Annotated[Path | None, typer.Option(help="File that declares the experiment, if it was moved.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let the next run train a failed or diverged model anew, under the code as it is now."""
    from cerebro.session.retry import retry as again

    folder = _folder(name, store)
    found = again(folder, model, declared(folder, file))
    typer.echo(json_text.dumps(asdict(found)) if json else str(found))


def doctor(
    name: Annotated[str | None, typer.Argument(help="Name of an experiment to verify; this machine, without.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Do what can be done about the findings.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Check that this machine can run Cerebro, or verify all that the store has of an experiment."""
    is_well = _machine(json) if name is None else _experiment(name, repair, store, json)
    if not is_well:
        raise typer.Exit(1)


def _machine(json: bool) -> bool:
    from cerebro.session.doctor import checks

    found = list(checks())
    if json:
        typer.echo(json_text.dumps([{"check": c.name, "ok": c.ok, "found": c.found} for c in found]))
    else:
        for check in found:
            typer.echo(f"{_mark(check.ok)}  {check.name:<22} {check.found}")
    return all(check.ok for check in found)


def _experiment(name: str, repair: bool, store: str | None, json: bool) -> bool:
    from cerebro.session.examination import examine
    from cerebro.session.repair import repair as mend

    folder = _folder(name, store)
    before, after = mend(folder) if repair else (found := examine(folder), found)
    left = set(after.findings)
    if json:
        rows = [{**asdict(finding), "repaired": finding not in left} for finding in before.findings]
        answer = {"experiment": name, "driver": before.driver, "looked_at": dict(after.looked_at), "findings": rows}
        typer.echo(json_text.dumps(answer))
        return not left
    if before.driver is not None:
        typer.echo(f"process {before.driver} runs {name}: its states are not looked at while they come and go")
    for finding in before.findings:
        typer.echo(f"{_mark(finding not in left)}  {finding}" + ("" if finding in left else " [done]"))
    for finding in (each for each in after.findings if each not in before.findings):
        typer.echo(f"{_mark(False)}  {finding}")
    counts = ", ".join(f"{count} {what}" for what, count in after.looked_at.items())
    typer.echo(f"{name}: {counts or 'not all'} verified, {len(before.findings)} findings, {len(left)} left")
    return not left


def _mark(ok: bool) -> str:
    return typer.style("ok ", fg="green") if ok else typer.style("BAD", fg="red", bold=True)


def _folder(name: str, store: str | None) -> Any:
    from cerebro.storage.store import Store as Experiments

    return Experiments(store).experiment(name)
