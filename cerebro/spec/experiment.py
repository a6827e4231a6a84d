"""What an experiment is: the declaration that everything else is derived from."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from cerebro.errors import SpecError
from cerebro.ids import check_name
from cerebro.spec.budget import Budget

ORDERS = ("same", "latin", "free")
MODES = ("max", "min")
PRECISIONS = ("float32", "bf16")


@runtime_checkable
class Search(Protocol):
    """What `Experiment(search=...)` needs; `cerebro.control.procedure.Procedure` says what each of these does."""

    def begin(self, terms: Any) -> None: ...

    def ask(self, fresh: str) -> Any: ...

    def tell(self, result: Any) -> Any: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ExperimentSpec:
    """The declaration of an experiment; see `cerebro.Experiment` for what can be done with one.

    Attributes:
        name: 1 to 64 of a-z, 0-9 and '-'; the same name in the same store goes on with the same experiment.
        data: the folder that `cerebro ingest` made.
        build: a function from a config to a `Learner`.
        search: which configs, such as `Grid({...})`.
        epochs: how often a model visits every shard.
        metric: what decides: a metric's name (of the valid split), or `train.NAME`.
        mode: `max` or `min`.
        seed: of every random stream.
        order: of the visits: `same` for all models, `latin` (rotated by model), or `free` (as the workers come).
        independent: give each model random streams of its own; by default all see the same batches and noise.
        repeats: train each config with so many seeds; what decides is the mean over them.
        deterministic: let decisions fall in virtual time, so that they are the same with any number of workers and
            after a crash; otherwise they fall as results come, may differ between runs, and only the log can say why.
        exact: whether how models are trained must not change a bit of them. With `False` it may, where a pilot finds
            that it pays: what was done is in the lineage, with how far it deviates, and `replay` does it again.
        precision: of the steps: `float32`, or `bf16` for `torch.autocast` in bfloat16, where the hardware computes in
            it; parameters and optimizers stay as `build` makes them.
        budget: what may be spent, in time, epochs, models, dollars or energy; more can be given later.
        source: the file that declares it, from which `cerebro replay` loads it; found by itself.

    Raises:
        SpecError: naming the field.
    """

    name: str
    data: str | PathLike[str]
    build: Callable[[Mapping[str, Any]], Any]
    search: Search
    epochs: int
    metric: str
    mode: Literal["max", "min"]
    seed: int = 0
    order: Literal["same", "latin", "free"] = "same"
    independent: bool = False
    repeats: int = 1
    deterministic: bool = True
    exact: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    budget: Budget | None = field(default=None, compare=False)
    source: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", _calling_file())
        check_name(self.name, "Experiment.name")
        if not isinstance(self.data, str | PathLike):
            raise SpecError(f"Experiment.data: {self.data!r} is not a path; give the folder that ingest made")
        if not callable(self.build):
            raise SpecError(f"Experiment.build: {self.build!r} cannot be called; give a function of a config")
        if not isinstance(self.search, Search):
            raise SpecError(f"Experiment.search: {self.search!r} is not a search; give for example Grid({{...}})")
        _check_count("epochs", self.epochs, least=1)
        _check_count("seed", self.seed, least=0)
        _check_count("repeats", self.repeats, least=1)
        if not isinstance(self.metric, str) or not self.metric:
            raise SpecError(f"Experiment.metric: {self.metric!r} is not the name of a metric, such as 'accuracy'")
        _check_one_of("mode", self.mode, MODES)
        _check_one_of("order", self.order, ORDERS)
        _check_one_of("precision", self.precision, PRECISIONS)
        for name in ("independent", "deterministic", "exact"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"Experiment.{name}: {getattr(self, name)!r} is not True or False")
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise SpecError(f"Experiment.budget: {self.budget!r} is not a budget; give for example Budget(time='2h')")

    @property
    def objective(self) -> tuple[str, str]:
        """The split and the name of the deciding metric: `accuracy` is `("valid", "accuracy")`."""
        return objective(self.metric)


def objective(metric: str) -> tuple[str, str]:
    """The split and the name of a deciding metric: `accuracy` is `("valid", "accuracy")`."""
    split, dot, name = metric.partition(".")
    return (split, name) if dot else ("valid", metric)


def _calling_file() -> str | None:
    """The file of the code that is making an experiment; None in a notebook or an interactive session."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cerebro", "dataclasses"):
        frame = frame.f_back
    file = frame.f_globals.get("__file__") if frame is not None else None
    return str(Path(file).resolve()) if file else None


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"Experiment.{name}: {value!r} is not a whole number of at least {least}")


def _check_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"Experiment.{name}: {value!r} is not one of {', '.join(allowed)}")
