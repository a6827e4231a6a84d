"""From what the user said to the logical plan, and to the identity that a resumed run is compared with."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.control.procedure import Procedure, Terms
from cerebro.control.steering import Steering
from cerebro.errors import SpecError, StoreError
from cerebro.ids import digest
from cerebro.messages import Ruling
from cerebro.plan.logical import Scan, Select, Train
from cerebro.plan.program import Member, Program, member_of
from cerebro.session.cycles import with_ancestors
from cerebro.spec.code import code_parts
from cerebro.spec.experiment import ExperimentSpec
from cerebro.spec.stages import stage_starts
from cerebro.storage.dataset import Dataset, open_dataset
from cerebro.streams import SCHEME


@dataclass(frozen=True)
class Declaration:
    """An experiment, checked against its dataset."""

    spec: ExperimentSpec
    dataset: Dataset
    members: Mapping[str, Member]
    """The models that the search begins with, by id."""
    identity: Mapping[str, Any]
    """Everything that the answer depends on, as JSON."""
    select: Select
    train: Train

    @property
    def plan_id(self) -> str:
        return digest(self.identity)

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        """The config of each model that the search begins with, by id."""
        return {model: member.config for model, member in self.members.items()}

    @property
    def repeats(self) -> dict[str, int]:
        """Which of the seeds of its config each model is that the search begins with."""
        return {model: member.repeat for model, member in self.members.items()}

    @property
    def actor(self) -> str:
        """The name under which the procedure's decisions are logged."""
        return self.identity["search"]["procedure"]

    def program(
        self, members: Mapping[str, Member], tapes: bool = True, trials: Mapping[str, Any] | None = None
    ) -> Program:
        """What workers must know to train `members`; with `tapes` they may play batches.

        `trials` are those of a pilot on this machine.
        """
        spec = self.spec
        return Program(
            build=spec.build,
            data=self.dataset.path,
            data_digest=self.dataset.digest,
            members=members,
            seed=spec.seed,
            independent=spec.independent,
            device=self.identity["device"],
            exact=spec.exact,
            precision=spec.precision,
            tapes=tapes,
            trials=trials or {},
        )

    def steering(self, models_max: int | None = None) -> Steering:
        """Who decides, at the very beginning."""
        return steering_of(self.spec, models_max)


def steering_of(spec: ExperimentSpec, models_max: int | None = None) -> Steering:
    """Who decides in an experiment; its search stays as it is.

    Raises:
        SpecError: the search does not fit the experiment.
    """
    if not isinstance(spec.search, Procedure):
        raise SpecError(f"Experiment.search: {spec.search!r} is not a cerebro.control.Procedure")
    return Steering(
        copy.deepcopy(spec.search),
        Terms(spec.seed, spec.mode, spec.epochs),
        actor=spec.search.describe()["procedure"],
        repeats=spec.repeats,
        deterministic=spec.deterministic,
        models_max=models_max,
    )


def members_of(rulings: list[Ruling]) -> dict[str, Member]:
    """The new models among some rulings."""
    return {ruling.model: member_of(ruling.member) for ruling in rulings if ruling.member and ruling.model}


def declare(
    spec: ExperimentSpec,
    device: str,
    *,
    like: Mapping[str, Any] | None = None,
    continued: Mapping[str, Any] | None = None,
) -> Declaration:
    """The declaration of an experiment that will train on `device`.

    `like` is what an experiment was declared as: on the data as they were then, its models going on from what they did.
    `continued` says so of a new one.

    Raises:
        DataError: the dataset cannot be opened.
        SpecError: the metric is to be measured on a split that the dataset does not have, or the device does not
            compute in the precision.
    """
    if spec.precision != "float32":
        from cerebro.training.devices import check_bf16  # it loads torch

        check_bf16(device)
    dataset = open_dataset(spec.data, like["data"] if like else None)
    continued = like.get("continues") if like else continued
    split, metric = spec.objective
    _check_split(spec, split, dataset)
    steering = steering_of(spec)
    members = with_ancestors(members_of(steering.begin()), continued)
    if continued is not None and steering.has_lanes:
        raise SpecError(
            f"models: 'continue' is for searches that train all models from the beginning, such as Grid; "
            f"{spec.search.describe()['procedure']} decides as it goes: use 'restart'"
        )
    configs = {model: member.config for model, member in members.items()}
    _check_stages(configs, spec.epochs)
    scan = Scan(
        dataset.path.name,
        *(_rows(dataset, split) for split in ("train", "valid")),
        *(_bytes(dataset, split) for split in ("train", "valid")),
    )
    train = Train(configs, spec.epochs, spec.order, spec.seed, scan)
    identity = _identity(spec, dataset, device) | ({"continues": dict(continued)} if continued else {})
    return Declaration(spec, dataset, members, identity, Select(split, metric, spec.mode, train), train)


def check_same(declared: Mapping[str, Any], stored: Mapping[str, Any], folder: Any) -> None:
    """Check that an experiment is declared as it was when it began.

    Raises:
        StoreError: naming the first difference.
    """
    for path, before, now in differences(stored, declared):
        mended = f"; after mending a failed model see `cerebro retry {folder.name} MODEL`" * path.startswith("code")
        raise StoreError(
            f"experiment {folder.name!r} exists with another declaration: {path} was {_short(before)}, now it is "
            f"{_short(now)}. Give this one another name, undo the change, or delete {folder} to begin anew{mended}"
        )


def _identity(spec: ExperimentSpec, dataset: Dataset, device: str) -> dict[str, Any]:
    return {
        "data": dataset.digest,
        "search": spec.search.describe(),
        "epochs": spec.epochs,
        "metric": spec.metric,
        "mode": spec.mode,
        "seed": spec.seed,
        "order": spec.order,
        "independent": spec.independent,
        "repeats": spec.repeats,
        "deterministic": spec.deterministic,
        "exact": spec.exact,
        "precision": spec.precision,
        "code": code_parts(spec.build),
        "device": device,
        "streams": SCHEME,
    }


def _check_split(spec: ExperimentSpec, split: str, dataset: Dataset) -> None:
    if split not in ("train", "valid"):
        raise SpecError(
            f"Experiment.metric: {spec.metric!r} is not measured while training; "
            "name a metric such as 'accuracy' (on the valid split) or 'train.accuracy'"
        )
    if not dataset.splits.get(split):
        raise SpecError(
            f"Experiment.metric: {spec.metric!r} is measured on the {split} split, and {dataset.path} has none; "
            f"ingest it with a {split} share, or use 'train.{spec.metric.rpartition('.')[2]}'"
        )


def _check_stages(configs: Mapping[str, Mapping[str, Any]], epochs: int) -> None:
    last = max((stage_starts(config)[-1] for config in configs.values()), default=1)
    if last > epochs:
        raise SpecError(
            f"Experiment.search: a stage begins with epoch {last}, and epochs={epochs}: no model would come to it; "
            "begin it earlier, or give more epochs"
        )


def _rows(dataset: Dataset, split: str) -> tuple[int, ...]:
    return tuple(shard.rows for shard in dataset.splits.get(split, ()))


def _bytes(dataset: Dataset, split: str) -> tuple[int, ...]:
    return tuple(shard.bytes for shard in dataset.splits.get(split, ()))


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, by path, in order."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            place = f"{path}.{key}" if path else key
            yield from differences(before.get(key, "absent"), now.get(key, "absent"), place)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif before != now:
        yield path, before, now


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:28] + "…" + text[-28:]
