"""What an order must look like, field by field. Loads pydantic: imported only where something is parsed."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cerebro.commands import OptimizerState
from cerebro.control.orders import NOTE_CHARACTERS_MAX
from cerebro.errors import SpecError
from cerebro.ids import check_name

DEPTH_MAX = 16
"""How deep lists and mappings may lie in each other."""

_INTEGER_MAX = 2**63 - 1


def check_json(value: Any, path: str, depth: int = 0) -> None:
    """Check that a config, or a part of one, is JSON that every reader understands.

    Raises:
        SpecError: naming the place.
    """
    if depth > DEPTH_MAX:
        raise SpecError(f"{path.partition('[')[0]}: nested more than {DEPTH_MAX} deep")
    match value:
        case None | bool():
            pass
        case int() if abs(value) > _INTEGER_MAX:
            raise SpecError(f"{path}: a whole number of more than 64 bits")
        case float() if not math.isfinite(value):
            raise SpecError(f"{path}: {value!r} is not a finite number")
        case str():
            _check_text(value, path)
        case list():
            for index, part in enumerate(value):
                check_json(part, f"{path}[{index}]", depth + 1)
        case Mapping():
            for name, part in value.items():
                _check_text(name, path)
                check_json(part, f"{path}[{name!r}]", depth + 1)
        case _:
            pass


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{path}: {text[:60]!r} is not text: {error.reason}") from None


def _model(value: str) -> str:
    return check_name(value, "model")


def _actor(value: str) -> str:
    return check_name(value, "actor")


def _config(value: dict[str, Any]) -> dict[str, Any]:
    check_json(value, "config")
    return value


def _changes(value: dict[str, Any]) -> dict[str, Any]:
    check_json(value, "changes")
    return value


Model = Annotated[str, AfterValidator(_model)]
Epoch = Annotated[int, Field(ge=1, le=10**9)]


class Form(BaseModel):
    """Fields that are all of their types, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")


class AddForm(Form):
    """The body of `Add`."""

    config: Annotated[dict[str, Any], AfterValidator(_config)]
    until: Epoch | None = None


class StopForm(Form):
    """The body of `Stop`."""

    model: Model


class ResumeForm(Form):
    """The body of `Resume`."""

    model: Model
    until: Epoch | None = None


class CloneForm(Form):
    """The body of `Clone`."""

    model: Model
    changes: Annotated[dict[str, Any], AfterValidator(_changes)]
    warm: bool = True
    optimizer: OptimizerState = "keep"
    at: Epoch | None = None
    until: Epoch | None = None


class ExtendForm(Form):
    """The body of `Extend`."""

    model: Model
    epochs: Epoch


class FinishForm(Form):
    """The body of `Finish`."""


class NoteForm(Form):
    """The body of `Note`."""

    text: str
    model: Model | None = None


BODIES: Mapping[str, type[Form]] = {
    "add": AddForm,
    "stop": StopForm,
    "resume": ResumeForm,
    "clone": CloneForm,
    "extend": ExtendForm,
    "finish": FinishForm,
    "note": NoteForm,
}
"""The form of each command, by its name."""


class OrderForm(Form):
    """An order, its body not yet looked at."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    ts: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    actor: Annotated[str, AfterValidator(_actor)] = "user"
    note: Annotated[str, Field(max_length=NOTE_CHARACTERS_MAX)] = ""
    command: Literal["add", "stop", "resume", "clone", "extend", "finish", "note"]
    body: dict[str, Any]


class RequestForm(Form):
    """A request, its order not yet looked at."""

    dry_run: bool = False
    order: dict[str, Any]


class ReplyForm(Form):
    """A reply."""

    accepted: bool
    queued: bool
    text: str
    order: str | None = None
    error: str = ""


_ALLOWED = {
    "id": "16 hexadecimal digits",
    "ts": "a number of seconds since 1970",
    "actor": "a name of a-z, 0-9 and '-'",
    "note": f"text of at most {NOTE_CHARACTERS_MAX:,} characters",
    "command": f"one of {', '.join(BODIES)}",
    "body": "a mapping of the command's fields",
    "order": "an order",
    "model": "the id of a model, such as 'm003'",
    "config": "a mapping of hyper-parameters to values",
    "changes": "a mapping of hyper-parameters to values",
    "warm": "true or false",
    "dry_run": "true or false",
    "accepted": "true or false",
    "queued": "true or false",
    "optimizer": "'keep' or 'reset'; a hyper-parameter of that name belongs into the changes",
    "at": "a whole number of at least 1",
    "until": "a whole number of at least 1",
    "epochs": "a whole number of at least 1",
    "text": "text",
    "error": "text",
}

F = TypeVar("F", bound=Form)


def filled(form: type[F], value: Any, what: str) -> F:
    """The form with the fields of `value`.

    Raises:
        SpecError: a field is missing, unknown, or not what it must be.
    """
    try:
        return form.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise SpecError(_refusal(form, what, name, first["type"], first["input"])) from None


def _refusal(form: type[Form], what: str, name: str, kind: str, value: Any) -> str:
    takes = f"it takes {', '.join(form.model_fields) or 'nothing'}"
    if kind == "missing":
        return f"{what}: {name!r} is missing; {takes}"
    if kind == "extra_forbidden":
        return f"{what}: there is no field {name[:60]!r}; {takes}"
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    return f"{what}: {name}: {shown} is not {_ALLOWED[name]}" if name else f"{what}: {shown} is not an object; {takes}"
