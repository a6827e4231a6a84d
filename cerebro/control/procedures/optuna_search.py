"""Configs proposed by Optuna's samplers: as a procedure of its own, or as the source of another."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.commands import Add
from cerebro.control.procedure import Decision, Procedure, Result, Terms
from cerebro.control.procedures.checks import check_count, cost
from cerebro.control.source import RandomSource, Source, Supply
from cerebro.errors import SpecError
from cerebro.ids import canonical_json
from cerebro.spec.sampling import Constraint, Path, assemble, coordinates, count_configs, dimensions, inside, path_text
from cerebro.spec.space import Choice, Config, Dimension, LogUniform, RandInt, Steps, Uniform
from cerebro.streams import stream_bytes

SAMPLERS = ("tpe", "gp", "cmaes", "nsgaii", "random")
ATTEMPTS = 10
"""How often a sampler may propose a repeated or a forbidden config before one is drawn at random instead."""


@dataclass
class OptunaSearch(Procedure, Source):
    """Configs from a sampler of Optuna (Akiba et al., KDD 2019), which learns from the models so far.

    `tpe` is the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), `gp` Bayesian optimisation with
    Gaussian processes, `cmaes` the evolution strategy, `nsgaii` a genetic algorithm. The study is in memory, and starts
    from a seed of 32 bits of the experiment's search stream.

    On its own it trains `models` models to the last epoch; as in `ASHA(OptunaSearch(space), ...)` it only proposes.
    Models short of the last epoch count as pruned there, at the last epoch that they came to; of the samplers, only
    `tpe` learns from these. A model that failed is the worst of the pruned ones. A model that a person stopped teaches
    nothing more. Models that a person added count if their configs are in the space.

    Raises:
        SpecError: a value is out of its range, or Optuna is not installed.
    """

    space: Mapping[str, Any]
    models: int | None = field(default=None, kw_only=True)
    sampler: str = field(default="tpe", kw_only=True)
    lanes: int = field(default=4, kw_only=True)  # pyright: ignore[reportIncompatibleMethodOverride]
    constraint: Constraint | None = field(default=None, kw_only=True)
    _terms: Terms = field(init=False, repr=False, compare=False)
    _study: Any = field(default=None, init=False, repr=False, compare=False)
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)
    _seen: set[str] = field(init=False, repr=False, compare=False)
    _told: set[str] = field(init=False, repr=False, compare=False)
    _random: RandomSource = field(init=False, repr=False, compare=False)
    _supply: Supply = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._random = RandomSource(self.space, self.constraint)
        if self.models is not None:
            check_count("OptunaSearch.models", self.models, least=1)
        check_count("OptunaSearch.lanes", self.lanes, least=1)
        if self.sampler not in SAMPLERS:
            raise SpecError(f"OptunaSearch.sampler: {self.sampler!r} is not one of {', '.join(SAMPLERS)}")

    @property
    def name(self) -> str:
        return f"optuna-{self.sampler}"

    def begin(self, terms: Terms) -> None:
        self._terms, self._numbers, self._seen, self._told = terms, {}, set(), set()
        self._random.begin(terms)
        self._supply = Supply(self, self.models)
        bits = stream_bytes((terms.seed, "search", self.name), 4)
        self._study = new_study(terms.mode, _sampler(self.sampler, int.from_bytes(bits, "little")))

    def ask(self, fresh: str) -> Decision | None:
        """As in `Procedure`.

        Raises:
            SpecError: `models` was not given; only as a source it can do without.
        """
        if self.models is None:
            raise SpecError("OptunaSearch.models: None; give how many models to train, as in models=50")
        seen = len(self._told)
        config = self._supply.take(fresh)
        if config is None:
            return None
        why = {"source": self.name, "number": self._supply.begun, "models": self.models, "seen": seen}
        return Decision(Add(config), why)

    def tell(self, result: Result) -> Sequence[Decision]:
        self.observe(result)
        return ()

    def propose(self, number: int, model: str) -> Config | None:
        for _ in range(0 if len(self._seen) == count_configs(self.space) else ATTEMPTS):
            trial, config = self._suggest()
            if self._is_new(config):
                return self._keep(model, trial, config)
            self._study.tell(trial, state=load_optuna().trial.TrialState.FAIL)
        while (drawn := self._random.propose(number, model)) is not None:
            if self._is_new(drawn):
                self._study.enqueue_trial(self._parameters(drawn))
                return self._keep(model, *self._suggest())
        return None

    def observe(self, result: Result) -> None:
        failed = cost(result.value, self._terms.mode) == float("inf")
        number = self._numbers.get(result.model)
        self._told.add(result.model)
        if number is None:
            self._add_foreign(result, failed)
        else:
            self._record(number, result.epoch, None if failed else result.value)

    def censor(self, model: str, epoch: int) -> None:
        state = load_optuna().trial.TrialState
        number = self._numbers.get(model)
        if number is not None and self._frozen(number).state == state.RUNNING:
            self._study.tell(number, state=state.FAIL)  # the samplers pass over it

    def describe(self) -> dict[str, Any]:
        return {
            "procedure": "optuna",
            "sampler": self.sampler,
            "source": {**self._random.describe(), "name": self.name},
            "models": self.models,
            "lanes": self.lanes,
        }

    def _suggest(self) -> tuple[Any, dict[str, Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask()
            return trial, assemble(self.space, lambda path, dimension: _suggested(trial, path, dimension))

    def _is_new(self, config: Config) -> bool:
        allowed = self.constraint is None or self.constraint(config)
        return allowed and canonical_json(config) not in self._seen

    def _keep(self, model: str, trial: Any, config: Config) -> Config:
        self._seen.add(canonical_json(config))
        self._numbers[model] = trial.number
        return config

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _record(self, number: int, epoch: int, value: float | None) -> None:
        """Note the newest result of one model, in place of its earlier ones."""
        state = load_optuna().trial.TrialState
        frozen = self._frozen(number)
        if frozen.state == state.RUNNING:
            self._study.tell(number, state=state.PRUNED)
            frozen = self._frozen(number)
        # In Optuna what has ended cannot be told again; ours goes on from rung to rung. The samplers read the study
        # anew at each ask, so its entry is changed in place: a second entry would count the config twice.
        complete = value is not None and epoch >= self._terms.epochs
        frozen.state = state.COMPLETE if complete else state.PRUNED
        frozen.value = value
        frozen.intermediate_values = {} if value is None else {epoch: value}

    def _add_foreign(self, result: Result, failed: bool) -> None:
        parameters = self._parameters(result.config)
        if parameters is None:
            return
        optuna = load_optuna()
        declared = {path_text(path): _distribution(dimension) for path, dimension in dimensions(self.space)}
        number = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                params=parameters,
                distributions={name: declared[name] for name in parameters},
            )
        )
        self._numbers[result.model] = number
        self._seen.add(canonical_json(result.config))
        self._record(number, result.epoch, None if failed else result.value)

    def _parameters(self, config: Config) -> dict[str, Any] | None:
        """The config as Optuna's parameters; None if it is not in the space."""
        found = coordinates(self.space, config)
        if found is None:
            return None
        kinds = dict(dimensions(self.space))
        return {path_text(path): _parameter(kinds[path], value) for path, value in found.items()}


def load_optuna(asked_by: str = "OptunaSearch") -> Any:
    """Optuna.

    Raises:
        SpecError: it is not installed, with the way out.
    """
    try:
        import optuna
    except ImportError as error:
        raise SpecError(f"{asked_by}: Optuna is not installed: pip install 'cerebro-select[optuna]'") from error
    return optuna


def new_study(mode: str, sampler: Any = None) -> Any:
    """An empty study in memory; Optuna, which would announce it, stays silent."""
    optuna = load_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(sampler=sampler, direction="maximize" if mode == "max" else "minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)


def _sampler(name: str, seed: int) -> Any:
    samplers = load_optuna().samplers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls some of these options experimental
            match name:
                case "tpe":
                    from cerebro.control.procedures.tpe import GroupedTPESampler

                    return GroupedTPESampler(seed)
                case "gp":
                    _check_installed("scipy")
                    return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
                case "cmaes":
                    _check_installed("cmaes")
                    return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
                case "nsgaii":
                    return samplers.NSGAIISampler(seed=seed)
                case _:
                    return samplers.RandomSampler(seed=seed)
    except ImportError as error:
        raise SpecError(
            f"OptunaSearch.sampler: {name!r} needs {error.name}: pip install 'cerebro-select[optuna]'"
        ) from error


def _check_installed(module: str) -> None:
    __import__(module)


def _distribution(dimension: Dimension) -> Any:
    """What Optuna knows of a dimension; its bounds are inclusive, and choices are the numbers of their options."""
    known = load_optuna().distributions
    match dimension:
        case Choice(options):
            return known.CategoricalDistribution(tuple(range(len(options))))
        case Uniform(low, high):
            return known.FloatDistribution(low, high)
        case LogUniform(low, high):
            return known.FloatDistribution(low, high, log=True)
        case RandInt(low, _, step, log):
            return known.IntDistribution(low, dimension.last, log=log, step=step)
        case Steps(count=count):
            return known.IntDistribution(0, count - 1)


def _suggested(trial: Any, path: Path, dimension: Dimension) -> Any:
    """The coordinate that Optuna suggests."""
    name, distribution = path_text(path), _distribution(dimension)
    match dimension:
        case Choice():
            return trial.suggest_categorical(name, distribution.choices)
        case Uniform(low, high):
            return inside(trial.suggest_float(name, low, high), low, high)
        case LogUniform(low, high):
            return inside(trial.suggest_float(name, low, high, log=True), low, high)
        case RandInt(low, _, step, log):
            return trial.suggest_int(name, low, dimension.last, step=step, log=log)
        case Steps(count=count):
            return dimension.value(trial.suggest_int(name, 0, count - 1))


def _parameter(dimension: Dimension, value: Any) -> Any:
    return round((value - dimension.low) / dimension.step) if isinstance(dimension, Steps) else value
