"""Why a model is where it is: everything that was decided about it, by whom, and from what."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cerebro.quantities import count_text
from cerebro.report.wording import clean, clipped, value_text
from cerebro.storage.store import ExperimentFolder

_KINDS = (
    "added", "cloned", "resumed", "extended", "paused", "stopped", "promoted", "finished", "failed", "diverged",
    "refused", "retried", "note",
)  # fmt: skip

_ENDS = ("paused", "stopped", "finished", "failed", "diverged")
"""After these a model is not on its way to an epoch."""

_FIRST = ("parent", "bracket", "rung", "rank", "threshold", "value")
"""What is said first, and in this order: the log keeps names sorted."""

_VALUE_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Decided:
    """One thing that was decided about a model."""

    seq: int
    """The number of the event."""
    ts: float
    """Seconds since 1970."""
    epoch: int | None
    """The epochs that the model had finished by then."""
    kind: str
    actor: str
    until: int | None
    why: Mapping[str, Any]
    note: str

    def __str__(self) -> str:
        epoch = f"epoch {self.epoch}" if self.epoch is not None else time.strftime("%H:%M:%S", time.localtime(self.ts))
        until = f" until epoch {self.until}" if self.until is not None and self.kind not in _ENDS else ""
        said = clean(f"{self.kind} by {self.actor}{until}")
        reasons = ", ".join(_reasons(self.why))
        note = f" ({clean(self.note)})" if self.note else ""
        return f"{epoch:<8}  {said}{': ' if reasons else ''}{reasons}{note}"


@dataclass(frozen=True, slots=True)
class Why:
    """All that was decided about a model, oldest first; prints one line each."""

    experiment: str
    model: str
    status: str
    epochs: int
    decided: tuple[Decided, ...]

    def __str__(self) -> str:
        head = f"{self.model} of {self.experiment}: {self.status} after {count_text(self.epochs, 'epoch')}"
        return "\n".join([head, *(map(str, self.decided) if self.decided else ["nothing was decided about it"])])

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        names = ("seq", "ts", "epoch", "kind", "actor", "until", "why", "note")
        decided = [{name: getattr(each, name) for name in names} for each in self.decided]
        head = {"experiment": self.experiment, "model": self.model, "status": self.status, "epochs": self.epochs}
        return {**head, "decided": decided}


def why(folder: ExperimentFolder, model: str) -> Why:
    """What the log says was decided about `model`, and from what.

    Raises:
        StoreError: no such model or experiment, or its catalog is damaged.
    """
    with closing(folder.reader()) as reader:
        reader.check_model(model)
        row = next(row for row in reader.models() if row["model"] == model)
        name, events = reader.experiment()["name"], reader.events()
    decided = tuple(_decided(event) for event in events if _is_about(event, model))
    return Why(name, model, row["status"], row["epochs"], decided)


def _is_about(event: Mapping[str, Any], model: str) -> bool:
    return event["kind"].removeprefix("model ") in _KINDS and event["body"].get("model") == model


def _decided(event: Mapping[str, Any]) -> Decided:
    body: Mapping[str, Any] = event["body"]
    reasons = body.get("why")
    why = {**_ancestor(body.get("member")), **(reasons if isinstance(reasons, Mapping) else {})}
    if body.get("error"):
        why["error"] = body["error"]
    return Decided(
        event["seq"],
        event["ts"],
        _whole(body.get("epoch")),
        event["kind"].removeprefix("model "),
        str(body.get("actor") or event["actor"]),
        _whole(body.get("until")),
        why,
        str(body.get("note") or body.get("text") or ""),
    )


def _ancestor(member: Any) -> dict[str, Any]:
    """Of a clone: where it starts."""
    found = member.get("ancestor") if isinstance(member, Mapping) else None
    return {"parent": found["model"]} if isinstance(found, Mapping) and "model" in found else {}


def _reasons(why: Mapping[str, Any]) -> Iterator[str]:
    """`rank 5 of 9`, `threshold 0.71`; a text as it is."""
    for name in [*(name for name in _FIRST if name in why), *(name for name in why if name not in _FIRST)]:
        value = why[name]
        if name == "of" and "rank" in why:
            continue
        of = f" of {value_text(why['of'])}" if name == "rank" and "of" in why else ""
        label = "" if name in ("text", "reason", "error") else f"{clean(name.replace('_', ' '))} "
        yield f"{label}{clipped(_value(value), _VALUE_CHARACTERS)}{of}"


def _value(value: Any) -> str:
    """As `value_text`, with lists and mappings written out flat."""
    if isinstance(value, Mapping):
        return " ".join(f"{clean(str(name))}={_value(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_value(part) for part in value)
    return "none" if value is None else value_text(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
