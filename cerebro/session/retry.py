"""Trying a model again that failed or diverged, with its code mended, beside models that stay as they are."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cerebro.errors import StoreError
from cerebro.session.declaration import Declaration, check_same, declare
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.catalog import Catalog, CatalogReader
from cerebro.storage.store import ExperimentFolder

_ENDED_BADLY = ("failed", "diverged")


@dataclass(frozen=True, slots=True)
class Retry:
    """A model that the next run trains anew."""

    experiment: str
    model: str
    was: str
    """Its status before."""
    error: str | None
    code: Mapping[str, str]
    """Each part of the code that is not what it was: `changed`, `added` or `removed`."""

    def __str__(self) -> str:
        parts = ", ".join(f"{part} ({how})" for part, how in self.code.items()) or "none"
        return (
            f"{self.model} of {self.experiment} was {self.was} and will be trained anew by the next run; "
            f"code that changed: {parts}"
        )


def retry(folder: ExperimentFolder, model: str, spec: ExperimentSpec) -> Retry:
    """Let the next run train `model` anew, under the code as it is now; the other models keep theirs.

    It starts anew rather than from its last good state, so that it is what the new code makes of its config: a model
    that two versions of the code trained in turn could be replayed with neither.

    Raises:
        StoreError: the model did not fail, more than code is declared otherwise, the code has changed while other
            models are not finished with theirs, or the experiment is being run.
    """
    with folder.held(), closing(folder.reader()) as reader:
        reader.check()
        declaration, stored = declare(spec, _device(reader), like=_said(reader)), _said(reader)
        now = {**declaration.identity, "code": stored["code"]}
        check_same(now, stored, folder.path)
        row = _failed(reader, model, folder)
        code = _code_changes(reader.declarations()[row["plan_id"]]["code"], declaration.identity["code"])
        _check_others(reader, model, declaration.plan_id)
        found = Retry(folder.path.name, model, row["status"], row["error"], code)
        with closing(Catalog(folder.path)) as catalog, catalog.transaction():
            _begin_anew(catalog, declaration, found, row["plan_id"])
        _remove_unneeded(folder)
        return found


def _begin_anew(catalog: Catalog, declaration: Declaration, found: Retry, before: str) -> None:
    model = found.model
    catalog.set_declaration(declaration.plan_id, declaration.identity)
    for row in catalog.models():
        if row["model"] == model or row["status"] == "waiting":
            catalog.set_model(row["model"], plan_id=declaration.plan_id)
    for row in catalog.rows("checkpoints", model):
        catalog.forget_checkpoint(model, row["state_digest"])
    catalog.roll_back(model, catalog.units(model), 0, None)
    catalog.set_experiment(status="interrupted", source=declaration.spec.source or catalog.experiment()["source"])
    plans = {"plan_before": before, "plan": declaration.plan_id}
    number = catalog.add_command("user", "retry", {"model": model, **plans})
    body = {"model": model, "command": number, "was": found.was, "error": found.error, "code": dict(found.code)}
    catalog.add_event("user", "retried", {**body, **plans})


def _remove_unneeded(folder: ExperimentFolder) -> None:
    """Delete states that no checkpoint names any more; a kill before this leaves them to `cerebro doctor`."""
    with closing(folder.reader()) as reader:
        folder.checkpoints.collect({row["state_digest"] for row in reader.rows("checkpoints")})


def _failed(reader: CatalogReader, model: str, folder: ExperimentFolder) -> Mapping[str, Any]:
    reader.check_model(model)
    row = next(row for row in reader.models() if row["model"] == model)
    if row["status"] not in _ENDED_BADLY:
        raise StoreError(
            f"model {model!r} of {folder.path.name!r} is {row['status']}: only a failed or diverged one is tried again"
        )
    return row


def _code_changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in sorted({*before, *now}):
        if before.get(part) != now.get(part):
            found[part] = "added" if part not in before else "removed" if part not in now else "changed"
    return found


def _check_others(reader: CatalogReader, model: str, plan_id: str) -> None:
    """A model must be of one version of the code: those in training may have begun with another."""
    begun = [row["model"] for row in reader.models() if row["status"] == "training" and row["plan_id"] != plan_id]
    if begun:
        raise StoreError(
            f"the code has changed, and {', '.join(begun[:3])} began with it as it was: undo the change, run the "
            f"experiment to its end, and retry {model} then"
        )


def _said(reader: CatalogReader) -> Mapping[str, Any]:
    return reader.experiment()["spec"]


def _device(reader: CatalogReader) -> str:
    return reader.experiment()["spec"]["device"]
