"""Whether a command can be carried out as things are, and what it will do; nothing is changed here."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cerebro.commands import Add, Clone, Command, Extend, Finish, Note, OptimizerState, Resume, Stop
from cerebro.control.knobs import changes_text, check_complete, check_kinds, check_known, same
from cerebro.control.orders import NOTE_CHARACTERS_MAX
from cerebro.control.steering import changed
from cerebro.errors import CerebroError, SpecError, StoreError
from cerebro.quantities import count_text, seconds_text
from cerebro.report.wording import clipped, config_text
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.store import ExperimentFolder

ShapeCheck = Callable[[Mapping[str, Any], Mapping[str, Any], OptimizerState], None]
"""Given the config before and after: raises CerebroError where a state of the one cannot be trained on as the other."""

_STOPPABLE = ("waiting", "training", "paused")
_RESUMABLE = ("stopped", "paused")
_BROKEN = ("failed", "diverged")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What there is of one model."""

    config: Mapping[str, Any]
    status: str
    """`waiting`, `training`, `paused`, `stopped` (by a person), `finished`, `failed` or `diverged`."""
    epochs: int
    """Those that it has finished."""
    has_state: bool
    """Whether a state of it is durable."""
    seconds: float
    """Spent in its units."""
    epoch_seconds: float | None = None
    """What one of its epochs took; None: it has finished none."""
    until: int | None = None
    """The epoch at whose end it pauses; None: the experiment's last one."""
    is_warm: bool = False
    """Whether it began from the state of another model."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is of an experiment, as far as commands depend on it."""

    experiment: str
    status: str
    """`new`, `running`, `interrupted` or `finished`."""
    epochs: int
    metric: str
    mode: str
    models: Mapping[str, ModelFacts]
    check_shapes: ShapeCheck | None = None
    """None: modules cannot be built here: the code is not at hand, or something trains in this process."""

    def model(self, name: str) -> ModelFacts:
        """What there is of one model.

        Raises:
            StoreError: there is no such model.
        """
        if name not in self.models:
            known = [model for model in self.models if "-" not in model] or ["none"]
            there = known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"
            raise StoreError(f"experiment {self.experiment!r} has no model {name!r}; it has {there}")
        return self.models[name]


def facts_of(reader: CatalogReader, check_shapes: ShapeCheck | None) -> Facts:
    """The facts that a catalog holds.

    Raises:
        StoreError: the catalog is damaged.
    """
    row, durable, seconds = reader.experiment(), reader.last_checkpoints(), _epoch_seconds(reader)
    models = {
        each["model"]: ModelFacts(
            each["config"],
            each["status"],
            each["epochs"],
            each["model"] in durable,
            each["seconds"],
            seconds.get(each["model"]),
            each["until"],
            each["ancestor"] is not None,
        )
        for each in reader.models()
    }
    return Facts(row["name"], row["status"], row["epochs"], row["metric"], row["mode"], models, check_shapes)


def facts_in(folder: ExperimentFolder, check_shapes: ShapeCheck | None) -> Facts:
    """The facts of the experiment in a folder, through a reader of its own: for any thread.

    Raises:
        StoreError: there is no experiment, or its catalog is damaged.
    """
    with closing(folder.reader()) as reader:
        return facts_of(reader, check_shapes)


def _epoch_seconds(reader: CatalogReader) -> dict[str, float]:
    """What an epoch of each model took; a warm clone has no units of the epochs before it began."""
    rows = reader.query(
        "SELECT units.model, sum(units.seconds) / count(DISTINCT units.epoch) AS seconds FROM units "
        "JOIN models ON models.model = units.model WHERE units.epoch <= models.epochs GROUP BY units.model"
    )
    return {row["model"]: row["seconds"] for row in rows}


def check(command: Command, facts: Facts) -> str:
    """What a command will do, in one line.

    Raises:
        SpecError: what was asked is not possible in this experiment.
        StoreError: there is no such model, or it is not in a state for this.
        CerebroError: what `check_shapes` finds.
    """
    match command:
        case Add():
            return _check_add(command, facts)
        case Stop():
            return _check_stop(command, facts)
        case Resume():
            return _check_resume(command, facts)
        case Clone():
            return _check_clone(command, facts)
        case Extend():
            return _check_extend(command, facts)
        case Finish():
            return _check_finish(facts)
        case Note():
            return _check_note(command, facts)


def _check_add(command: Add, facts: Facts) -> str:
    if not command.config:
        raise SpecError("add: a config without values; give those of a model, such as lr=0.001")
    others = [model.config for model in facts.models.values()]
    check_complete("add", command.config, others)
    check_kinds("add", command.config, others)
    _check_new("add", command.config, facts)
    until = _until("add", command.until, 0, facts)
    return f"adds a new model with {clipped(config_text(command.config), 200)}, to be trained until epoch {until}"


def _check_stop(command: Stop, facts: Facts) -> str:
    name, model = command.model, facts.model(command.model)
    way_on = f"`cerebro resume {facts.experiment} {name}` goes on with it"
    if model.status not in _STOPPABLE:
        hint = f"; {way_on}" if model.status == "stopped" else ""
        raise StoreError(f"stop {name}: it is {model.status}; one can stop a {_listed(_STOPPABLE)} model{hint}")
    return f"stops {name} at the end of its unit ({_progress(model, facts)}); {way_on}"


def _check_resume(command: Resume, facts: Facts) -> str:
    name, model = command.model, facts.model(command.model)
    if model.status not in _RESUMABLE:
        asked = f"resume {name}: it is {model.status}; one can resume a {_listed(_RESUMABLE)} model"
        raise StoreError(f"{asked}: {_instead(name, model, facts)}")
    until = _until(f"resume {name}", command.until, model.epochs, facts)
    return f"goes on with {name} after {count_text(model.epochs, 'epoch')}, until epoch {until}"


def _instead(name: str, model: ModelFacts, facts: Facts) -> str:
    """What to do with a model that cannot be resumed."""
    if model.status == "finished":
        return f"extend it, `cerebro extend {facts.experiment} {name} --epochs 1`"
    if model.status in _BROKEN:
        return f"see `cerebro retry {facts.experiment} {name}`"
    return "it goes on by itself"


def _check_extend(command: Extend, facts: Facts) -> str:
    name, model = command.model, facts.model(command.model)
    if command.epochs < 1:
        raise SpecError(f"extend {name}: epochs: {command.epochs!r} is not a whole number of at least 1")
    if model.status in _BROKEN:
        raise StoreError(f"extend {name}: it has {_ended(model)}: {_instead(name, model, facts)}")
    return f"trains {name} for {count_text(command.epochs, 'epoch')} more than it was to be ({_progress(model, facts)})"


def _check_finish(facts: Facts) -> str:
    if facts.status == "finished":
        raise StoreError(f"finish: experiment {facts.experiment!r} is finished: nothing is left to end")
    left = sum(model.status in _STOPPABLE for model in facts.models.values())
    return f"begins nothing more: what runs ends its unit, and {count_text(left, 'model')} stay where they are"


def _check_note(command: Note, facts: Facts) -> str:
    if not command.text.strip():
        raise SpecError("note: the text is empty; say what there is to note")
    if len(command.text) > NOTE_CHARACTERS_MAX:
        raise SpecError(
            f"note: the text has {len(command.text):,} characters; at most {NOTE_CHARACTERS_MAX:,} are allowed"
        )
    if command.model is None:
        return f"notes in the log of {facts.experiment}: {clipped(command.text.strip(), 80)!r}"
    facts.model(command.model)
    return f"notes in the log of {command.model}: {clipped(command.text.strip(), 80)!r}"


def _check_clone(command: Clone, facts: Facts) -> str:
    name, model, what = command.model, facts.model(command.model), f"clone {command.model}"
    if command.at is not None:
        raise SpecError(f"{what}: at: {command.at!r} is for procedures; leave it out: it starts from the newest state")
    check_known(what, model.config, command.changes)
    check_kinds(what, command.changes, [each.config for each in facts.models.values()])
    config = changed(model.config, command.changes)
    if same(config, model.config) and not (command.warm and command.optimizer == "reset" and not command.changes):
        said = changes_text(command.changes)
        raise SpecError(
            f"{what}: it changes nothing: {name} has {said} already" if said else f"{what}: say what changes, LR=VALUE"
        )
    until = _until(what, command.until, model.epochs if command.warm else 0, facts)
    with_what = f" but for {changes_text(command.changes)}" if command.changes else ""
    text = f"adds a clone of {name} with its config{with_what}"
    return f"{text}, {_check_start(command, config, facts)}, to be trained until epoch {until}"


def _check_start(command: Clone, config: Mapping[str, Any], facts: Facts) -> str:
    """What a clone starts from."""
    what, model = f"clone {command.model}", facts.models[command.model]
    if not command.warm:
        _check_new(what, config, facts)
        return "cold: from its initialisation"
    if f"{command.model.partition('-')[0]}-r2" in facts.models:
        raise SpecError(
            f"{what}: every config is repeated here, and the repeats of a clone cannot all start from the state of one "
            "model: clone it cold (--cold)"
        )
    if not model.has_state:
        raise StoreError(
            f"{what}: it has no durable state yet ({_progress(model, facts)}): wait for one, or clone it cold (--cold)"
        )
    checked = _check_shapes(what, model.config, config, command.optimizer, facts)
    memory = "kept" if command.optimizer == "keep" else "reset"
    return f"warm: from its newest state ({_progress(model, facts)}), the optimizer's memory {memory}{checked}"


def _check_shapes(
    what: str, before: Mapping[str, Any], after: Mapping[str, Any], optimizer: OptimizerState, facts: Facts
) -> str:
    if facts.check_shapes is None:
        return " (whether the shapes fit is seen only when it begins)"
    try:
        facts.check_shapes(before, after, optimizer)
    except CerebroError as error:
        raise type(error)(f"{what}: {error}") from error
    except Exception as error:  # the user's build may raise anything
        raise SpecError(f"{what}: build fails with {config_text(after)}: {type(error).__name__}: {error}") from error
    return ""


def _check_new(what: str, config: Mapping[str, Any], facts: Facts) -> None:
    for name, model in facts.models.items():
        if not model.is_warm and same(config, model.config):
            raise SpecError(f"{what}: {name} has this config already: see `cerebro leaderboard {facts.experiment}`")


def _until(what: str, until: int | None, finished: int, facts: Facts) -> int:
    """The epoch at which a model ends that has finished so many.

    Raises:
        SpecError: `until` is not one of those that are left.
    """
    if until is None:
        return _end(until, finished, facts)
    if finished >= facts.epochs:
        raise SpecError(f"{what}: until: {until!r}: it has finished all {facts.epochs} epochs: extend it instead")
    if not finished < until <= facts.epochs:
        raise SpecError(f"{what}: until: {until!r} is not an epoch from {finished + 1} to {facts.epochs}")
    return until


def _end(until: int | None, finished: int, facts: Facts) -> int:
    """The epoch at which a model ends; whoever has finished all starts with one more."""
    return max(facts.epochs, finished + 1) if until is None else until


def _listed(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _progress(model: ModelFacts, facts: Facts) -> str:
    last = max(facts.epochs, model.epochs, model.until or 0)
    return f"{model.status}, {model.epochs} of {count_text(last, 'epoch')} finished"


def _ended(model: ModelFacts) -> str:
    return "diverged" if model.status == "diverged" else "failed"


def cost(command: Command, facts: Facts) -> str:
    """What a command would cost, at the seconds measured so far; it was checked.

    Raises:
        StoreError: there is no such model.
    """
    match command:
        case Add(_, until):
            return f"costs {_price(until or facts.epochs, None, facts)}"
        case Resume(name, until):
            model = facts.model(name)
            return f"costs {_price(_end(until, model.epochs, facts) - model.epochs, model, facts)}"
        case Clone(name, _, warm, _, _, until):
            model = facts.model(name)
            begun = model.epochs if warm else 0
            return f"costs {_price(_end(until, begun, facts) - begun, model, facts)}"
        case Extend(name, epochs):
            return f"costs {_price(epochs, facts.model(name), facts)}"
        case Stop(name):
            model = facts.model(name)
            return f"saves {_price(max(0, (model.until or facts.epochs) - model.epochs), model, facts)}"
        case Finish() | Note():
            return "costs nothing"


def _price(epochs: int, model: ModelFacts | None, facts: Facts) -> str:
    """So many epochs of a model, or of a new one."""
    known = [each.epoch_seconds for each in facts.models.values() if each.epoch_seconds is not None]
    if model is not None and model.epoch_seconds is not None:
        seconds, of = model.epoch_seconds, "its epochs so far"
    elif known:
        seconds, of = sum(known) / len(known), "the mean of all models"
    else:
        return f"{count_text(epochs, 'epoch')}; how long one takes was not measured yet"
    return f"{count_text(epochs, 'epoch')}, about {seconds_text(epochs * seconds)} of one worker by {of}"
