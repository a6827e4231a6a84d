"""Training one model again, alone and inline, from its lineage: the proof that it can be trusted."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from cerebro.errors import StoreError
from cerebro.execution.engine import Engine
from cerebro.execution.replay import Difference, replay_units
from cerebro.plan.program import Member
from cerebro.session.declaration import check_same, declare
from cerebro.session.lineage import declaration_of
from cerebro.session.members import members_in
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.catalog import CatalogReader, UnitRow
from cerebro.storage.store import ExperimentFolder


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found."""

    model: str
    units: int
    """Units that were run again."""
    difference: Difference | None
    """The first unit whose result is not the recorded one."""

    @property
    def identical(self) -> bool:
        """Whether every unit gave the recorded bits."""
        return self.difference is None

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.model}: identical in {self.units} units"
        return f"{self.model}: {self.difference}"


def replay(
    folder: ExperimentFolder,
    model: str,
    spec: ExperimentSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replay:
    """Train `model` again on the inline engine, unit by unit as recorded, and stop at the first that differs.

    Raises:
        StoreError: no such model, no unit recorded, or the experiment is declared otherwise now.
    """
    from cerebro.engines.inline import InlineEngine  # it loads torch

    with closing(folder.reader()) as reader:
        reader.check_model(model)
        experiment, rows = reader.experiment(), reader.units(model)
        said = declaration_of(reader, model)
        members = members_in(reader)
        rows = [*ancestry(model, members, reader), *rows]
    declaration = declare(spec, experiment["spec"]["device"])
    if said != experiment["spec"] and declaration.identity == experiment["spec"]:
        raise StoreError(
            f"model {model!r} of {spec.name!r} was trained with the code as it was before a retry: give the file as it "
            "was then with --file"
        )
    check_same(declaration.identity, said, folder.path)
    if not rows:
        raise StoreError(f"model {model!r} of {spec.name!r} has no recorded unit to replay")
    program = declaration.program(members)
    with closing(InlineEngine()) as engine:
        engine.open(program, 1, lambda model: _ancestors_state(engine, members[model]))
        done, difference = replay_units(engine, rows, experiment["fingerprint"], progress)
    return Replay(model, done, difference)


def ancestry(model: str, members: Mapping[str, Member], reader: CatalogReader) -> list[UnitRow]:
    """The train units of its ancestors that lead to where a model starts, oldest first; none if it is no clone.

    Raises:
        StoreError: the log does not lead to that state.
    """
    ancestor = members[model].ancestor
    if ancestor is None:
        return []
    rows = [row for row in reader.units(ancestor.model) if row.unit.kind == "train"]
    ends = [index for index, row in enumerate(rows) if row.state_digest == ancestor.state_digest]
    if not ends:
        if members[ancestor.model].ancestor == ancestor:  # cloned before it was trained any further itself
            return ancestry(ancestor.model, members, reader)
        raise StoreError(
            f"{ancestor.model} has no unit that ends in {ancestor.state_digest}, from which {model} starts"
        )
    return [*ancestry(ancestor.model, members, reader), *rows[: ends[0] + 1]]


def _ancestors_state(engine: Engine, member: Member) -> bytes | None:
    if member.ancestor is None:
        return None
    handle = engine.state(member.ancestor.model)
    try:
        return bytes(handle.view())
    finally:
        handle.release()
