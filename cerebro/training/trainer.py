"""What a worker does: builds learners, opens shards, and runs units as pure functions of their inputs."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cerebro.errors import InternalError, ModelError
from cerebro.messages import Launch, Pilot, Unit
from cerebro.plan.features import Features
from cerebro.plan.kernels import CHANNELS_LAST, STACKED
from cerebro.plan.program import LEARNERS_BYTES, Member, Program, stream_key
from cerebro.storage.dataset import OpenShard, open_dataset
from cerebro.streams import Key, permutation
from cerebro.training.features import DerivedColumns
from cerebro.training.frozen import CANONICAL_ROWS
from cerebro.training.fused import NotFusedError, fused_train_visit, fused_valid_visit, remembered
from cerebro.training.learners import LiveLearner, build_learner, describe
from cerebro.training.metrics import merged_value
from cerebro.training.modes import Modes
from cerebro.training.open_shards import OpenShards, ShardError
from cerebro.training.piloting import Sample, first_difference, head, probe, repeated, timed
from cerebro.training.player import Shelf, Tapes
from cerebro.training.randomness import set_generators
from cerebro.training.rewrites import compared_alone, may_be_channels_last
from cerebro.training.shapes import check_stages
from cerebro.training.sharing import same_visits
from cerebro.training.together import compared, why_not_together
from cerebro.training.train import LOSS, DivergedError, Visit, train_visit, valid_visit

__all__ = ["ShardError", "Trainer"]

Partials = Mapping[str, Any]


class Trainer:
    """Runs the units of one experiment, one after another, on one device.

    A unit is a pure function of the parent state, the shard, the member and the keyed streams: what this object
    keeps between units (built learners, open shards) saves time and changes nothing.
    """

    def __init__(self, program: Program, device: str) -> None:
        self._program, self._device, self._members = program, torch.device(device), dict(program.members)
        self._shards, self._modes = OpenShards(open_dataset(program.data, program.data_digest)), Modes.present()
        self._learners: OrderedDict[str, LiveLearner] = OrderedDict()
        self._sharing = dict[str, str]()
        """By model the one that has made its last visit for it."""
        self._alike = dict[str, object]()
        """By model a mark that those have in common of which it is known that they fit in one pass."""
        self._apart = set[tuple[str, ...]]()
        """Models that were to go together and could not."""
        self._shelf = Shelf() if program.tapes and self._device.type == "cpu" else None
        self._derived = DerivedColumns(self._device, lambda: self._shards.open("train", 0).columns)
        remembered.hear(program.trials)

    def prefer(self, features: Features) -> None:
        """Come to derived columns as `features` says."""
        self._derived.prefer(features)

    def introduce(self, model: str, member: Member) -> bool:
        """Know of a model that was not among the program's members; gives whether that is new."""
        if self._members.get(model) == member:
            return False
        self.forget(model)
        self._members[model] = member
        return True

    def forget(self, model: str) -> None:
        """Give back the memory of a model that is not trained for now."""
        self._learners.pop(model, None)
        self._drop_tapes(model)

    def take_up(self, launch: Launch) -> int:
        """Bring the shard of a launch into memory, as it says; gives the bytes that were read.

        Raises:
            ShardError: the shard is missing or damaged.
        """
        return self._shards.take_up(launch.unit.kind, launch.unit.shard, launch.reading)

    def put_down(self, launch: Launch) -> None:
        """Let go of the shard of a launch, where memory is short."""
        self._shards.put_down(launch.reading)

    def visit(self, unit: Unit, parent: memoryview | None, kernel: str = "") -> Visit:
        """Run a unit from the `parent` state (None: the initial one): the model's own, or its ancestor's.

        `kernel` says how it is computed, where that may change bits.

        Raises:
            ModelError: the user's code failed, or the loss is not finite.
            ShardError: the shard is missing or damaged.
        """
        live = self._starting(unit, parent)
        self._alike.pop(unit.model, None)
        self._derived.find_out(live)
        if kernel == CHANNELS_LAST:
            live.state.channels_last()
        shard = self._shards.open(unit.kind, unit.shard)
        visit = self._visit(live, unit, shard, self._tapes([unit], kernel))
        self._learners[unit.model] = live  # not where the visit failed: such a learner only costs memory
        self._forget_old_learners()
        return visit

    def _visit(self, live: LiveLearner, unit: Unit, shard: OpenShard, tapes: Tapes | None) -> Visit:
        columns = self._derived.of_shard(live, unit.kind, unit.shard, shard, self._content(unit))
        self._modes.restore()  # once more: a learner that was built before does not set its modes again
        set_generators(self._key(unit.model, "noise", unit.kind, unit.epoch, unit.shard))
        if unit.kind != "train":
            return valid_visit(live, columns, tapes)
        rows_key = self._key(unit.model, "rows", unit.epoch, unit.shard)
        order = permutation(shard.rows, rows_key) if live.learner.shuffle else None
        return train_visit(live, columns, order, tapes)

    def visit_together(
        self, units: Sequence[Unit], parents: Sequence[memoryview | None], kernel: str = ""
    ) -> list[Visit | DivergedError] | None:
        """Run units of several models on one shard in one pass; None: it cannot be.

        With the bits that `visit` gives each, unless `kernel` is that of stacked passes.

        Raises:
            ModelError: the code of one of them failed; nothing has happened.
            ShardError: the shard is missing or damaged.
        """
        models = tuple(unit.model for unit in units)
        if models in self._apart or not self._see_the_same(units):
            return None
        lives = [self._starting(unit, parent) for unit, parent in zip(units, parents, strict=True)]
        for live in lives:
            self._derived.find_out(live)
        try:
            self._check_alike(models, lives)
            visits = self._visit_fused(lives, units[0], kernel != STACKED, self._tapes(units, kernel))
        except NotFusedError:  # they are built and loaded anew, each by itself
            self._apart.add(models)
            return None
        self._learners.update(zip(models, lives, strict=True))
        self._forget_old_learners(keep=len(lives))
        return visits

    def _check_alike(self, models: Sequence[str], lives: Sequence[LiveLearner]) -> None:
        """Check that learners fit in one pass; what was found of them holds while none is trained alone or built anew.

        Raises:
            NotFusedError: they do not fit.
        """
        found = {self._alike.get(model) for model in models}
        if len(found) == 1 and None not in found:
            return
        why_not = why_not_together(lives)
        if why_not is not None:
            raise NotFusedError(why_not)
        self._alike.update(dict.fromkeys(models, object()))

    def _see_the_same(self, units: Sequence[Unit]) -> bool:
        """Whether these models draw the same batches and the same noise."""
        return len({self._key(unit.model, "rows", unit.epoch, unit.shard) for unit in units}) == 1

    def _tapes(self, units: Sequence[Unit], kernel: str) -> Tapes | None:
        """The tapes of what these units compute."""
        if self._shelf is None:
            return None
        kind = units[0].kind
        return self._shelf.of([unit.model for unit in units], f"{kind} {kernel}", kind == "train")

    def _drop_tapes(self, model: str) -> None:
        if self._shelf is not None:
            self._shelf.drop(model)

    def _visit_fused(
        self, lives: Sequence[LiveLearner], unit: Unit, exact: bool, tapes: Tapes | None
    ) -> list[Visit | DivergedError]:
        shard = self._shards.open(unit.kind, unit.shard)
        columns = self._derived.of_shard_for_all(lives, unit.kind, unit.shard, shard, self._content(unit))
        self._modes.restore()
        set_generators(self._key(unit.model, "noise", unit.kind, unit.epoch, unit.shard))
        if unit.kind != "train":
            return [*fused_valid_visit(lives, columns, exact, tapes)]
        rows_key = self._key(unit.model, "rows", unit.epoch, unit.shard)
        order = permutation(shard.rows, rows_key) if lives[0].learner.shuffle else None
        return fused_train_visit(lives, columns, order, exact, tapes)

    def _content(self, unit: Unit) -> str:
        """The digest of a unit's shard."""
        return self._shards.dataset.splits[unit.kind][unit.shard].sha256

    def alike(self, units: Sequence[Unit], parents: Sequence[memoryview | None]) -> list[list[int]]:
        """The places of those units that are one and the same visit from one and the same state, group by group."""
        members = [self._member(unit.model) for unit in units]
        if self._program.independent:
            return [[place] for place in range(len(units))]
        return same_visits(units, members, parents)

    def share(self, model: str, other: str) -> None:
        """Let `other` be in the state of `model`, which has made its last visit for it, until its own next visit."""
        self._sharing[other] = model

    def values(self, model: str, partials: Sequence[Partials]) -> dict[str, float]:
        """The metrics over the visits that gave `partials`, in order."""
        metrics = {"loss": LOSS, **self._present(model).metrics}
        return {name: merged_value(metric, [p[name] for p in partials]) for name, metric in metrics.items()}

    def write_state(self, model: str, room_for: Callable[[int], memoryview]) -> int:
        """Write the state after the last visit of `model` where `room_for(size)` says; gives its size."""
        return self._present(model).state.write(room_for)

    def state(self, model: str) -> bytes:
        """The state after the last visit of `model`."""
        return self._present(model).state.to_bytes()

    def _present(self, model: str) -> LiveLearner:
        return self._learners[self._sharing.get(model, model)]

    def pilot(self, pilot: Pilot) -> dict[str, Any]:
        """What the planner wants to know of a model: its description and, with `batches`, its times and purity.

        Raises:
            ModelError: the user's code failed.
        """
        model, batches = pilot.model, pilot.batches
        if pilot.fellows:
            return {"together": self._pilot_together((model, *pilot.fellows), batches), "trials": remembered.told()}
        live = self._first_learner(model)
        profile = describe(live)
        if batches:
            trace_seconds = timed(lambda: self._derived.find_out(live))
            sample, costs = self._sample(live, model, batches)
            found = probe(live, sample, self._key(model, "noise", "pilot"), batches, self._shelf is not None)
            rewrites = self._rewrites(model, batches)
            return profile | found | {"trace_seconds": trace_seconds, "derived": costs, "rewrites": rewrites}
        check_stages(self._program.build, self._member(model).config, self._shards.dataset.label)
        again: list[LiveLearner] = []
        build_seconds = timed(lambda: again.append(self._first_learner(model)))
        impure = _changed_by_building(live, again[0])
        return profile | {"build_seconds": build_seconds} | ({"impure_tensor": impure} if impure else {})

    def _sample(self, live: LiveLearner, model: str, batches: int) -> tuple[Sample, list[dict[str, Any]]]:
        """What a pilot is run on, and what each derivation costs: of derived columns there are a few rows."""
        learner, shard = live.learner, self._shards.open("train", 0)
        valid = self._shards.dataset.splits.get("valid", ())
        rows = shard.rows
        if live.view is not None or live.frozen is not None:
            rows = min(rows, max(CANONICAL_ROWS, learner.batch_size * batches, learner.eval_batch_size or 0))
        columns, costs = self._derived.of_rows(live, head(shard.columns, rows))
        order = permutation(rows, self._key(model, "rows", "pilot")) if learner.shuffle else None
        return Sample(columns, order, valid[0].rows if valid else rows), costs

    def _rewrites(self, model: str, batches: int) -> list[dict[str, Any]]:
        """The fields of `cerebro.plan.cost.Rewrite`, for each that is to be tried."""
        tried = list[tuple[str, LiveLearner, LiveLearner]]()
        if self._program.precision != "float32":
            wide = replace(self._first_learner(model), precision="float32")
            tried.append(("bf16", wide, self._first_learner(model)))
        if not self._program.exact and may_be_channels_last(other := self._first_learner(model)):
            other.state.channels_last()
            tried.append((CHANNELS_LAST, self._first_learner(model), other))
        key, columns = self._key(model, "noise", "pilot"), self._shards.open("train", 0).columns
        return [
            {"name": name, **compared_alone(one, other, head(columns, one.learner.batch_size * batches), key)}
            for name, one, other in tried
        ]

    def _pilot_together(self, models: Sequence[str], batches: int) -> dict[str, Any]:
        lives = [self._first_learner(model) for model in models]
        for live in lives:
            self._derived.find_out(live)
        if (why_not := why_not_together(lives)) is not None:
            return {"why_not": why_not}
        learner, columns = lives[0].learner, self._shards.open("train", 0).columns
        rows = max(learner.batch_size * batches, learner.eval_batch_size or 0)
        if lives[0].frozen is None and lives[0].view is None:
            columns = head(columns, rows)
        else:
            try:
                few = self._derived.of_rows_for_all(lives, head(columns, CANONICAL_ROWS))
            except NotFusedError as error:
                return {"why_not": str(error)}
            columns = repeated(few, rows)  # to derive as many could take long
        return compared(
            lives, columns, self._key(models[0], "noise", "pilot"), self._program.exact, self._shelf is not None
        )

    def _starting(self, unit: Unit, parent: memoryview | None) -> LiveLearner:
        """The learner that a unit begins with."""
        self._sharing.pop(unit.model, None)
        member = self._member(unit.model)
        config, start = member.config_in(unit.epoch), member.starts(unit)
        if start == "own":
            return self._learner(unit.model, parent, config)
        if parent is None:
            ancestor = member.ancestor.model if member.ancestor else "the stage before"
            raise InternalError(f"there is no state of {ancestor}, which {unit.model} is to start from")
        self._learners.pop(unit.model, None)  # one that has adopted before has stepped its schedule
        live = self._built(unit.model, config)
        self._derived.find_out(live)
        live.state.adopt(parent, start)
        return live

    def _learner(self, model: str, parent: memoryview | None, config: Mapping[str, Any]) -> LiveLearner:
        """A learner in the `parent` state; built anew where there is none to load."""
        self._modes.restore()
        live = self._learners.pop(model, None) if parent is not None else None
        if live is None or live.config != config:
            live = self._built(model, config)
        if parent is not None:
            self._derived.find_out(live)  # as it was built, so that all workers find the same
            live.state.load(parent)
        return live

    def _first_learner(self, model: str) -> LiveLearner:
        """A learner as it is before its first unit."""
        return self._learner(model, None, self._member(model).config_in(1))

    def _built(self, model: str, config: Mapping[str, Any]) -> LiveLearner:
        """A learner as `build` gives it."""
        self._modes.restore()
        self._alike.pop(model, None)
        self._drop_tapes(model)
        label = self._shards.dataset.label
        live = build_learner(
            self._program.build, config, self._key(model, "init"), label, self._device, self._program.precision
        )
        if live.frozen is not None:
            self._derived.share_weights(live.frozen)
        return live

    def _member(self, model: str) -> Member:
        assert model in self._members, f"{model} was not introduced"
        return self._members[model]

    def _forget_old_learners(self, keep: int = 1) -> None:
        """Let go of the learners that were used longest ago, where there are too many; the newest are kept."""
        while (
            len(self._learners) > keep
            and sum(live.state.bytes_held for live in self._learners.values()) > LEARNERS_BYTES
        ):
            model, _ = self._learners.popitem(last=False)
            self._drop_tapes(model)

    def _key(self, model: str, stream: str, *parts: int | str) -> Key:
        """The key of a stream: the same for all models unless they are to be independent."""
        program = self._program
        return stream_key(program.seed, program.independent, self._member(model), stream, *parts)


def _changed_by_building(one: LiveLearner, other: LiveLearner) -> str | None:
    """The first tensor that two builds of one config disagree on, or None where they are equal.

    Raises:
        ModelError: they are not the same module at all, or share what is trained.
    """
    earlier = {id(parameter) for parameter in one.module.parameters()}
    for name, parameter in other.module.named_parameters():
        if parameter.requires_grad and id(parameter) in earlier:
            raise ModelError(f"build: gave the parameter {name} of an earlier call again; it must make a new module")
    first, second = one.state.to_bytes(), other.state.to_bytes()
    other.state.load(memoryview(first))
    return first_difference(first, second)
