"""Training one model again, alone and inline, from its lineage: the proof that it can be trusted."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from cerebro.errors import StoreError
from cerebro.execution.replay import Difference, replay_units
from cerebro.plan.program import Member
from cerebro.session.cycles import inherited_state
from cerebro.session.declaration import check_same, declare
from cerebro.session.history import history
from cerebro.session.lineage import declaration_of
from cerebro.session.members import members_in
from cerebro.spec.experiment import ExperimentSpec
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
        launches = history(model, members, reader)
    declaration = declare(spec, experiment["spec"]["device"], like=said)
    if said != experiment["spec"] and declaration.identity == experiment["spec"]:
        raise StoreError(
            f"model {model!r} of {spec.name!r} was trained with the code as it was before a retry: give the file as it "
            "was then with --file"
        )
    check_same(declaration.identity, said, folder.path)
    if not rows:
        raise StoreError(f"model {model!r} of {spec.name!r} has no recorded unit to replay")
    program = declaration.program(members, tapes=False)  # by the code itself, whatever was played
    wanted = {member.ancestor.state_digest for member in members.values() if member.ancestor is not None}
    starts = dict[str, bytes]()

    def keep(digest: str, state: memoryview) -> None:
        if digest in wanted:
            starts[digest] = bytes(state)

    with closing(InlineEngine()) as engine:
        engine.open(program, 1, lambda model: _start(members[model], starts, folder))
        done, difference = replay_units(engine, launches, experiment["fingerprint"], progress, keep)
    return Replay(model, done, difference)


def _start(member: Member, starts: Mapping[str, bytes], folder: ExperimentFolder) -> bytes | None:
    """The state that a model starts from; None if that is its initialisation."""
    if member.ancestor is None or member.ancestor.experiment:
        return inherited_state(member, folder)
    return starts[member.ancestor.state_digest]
