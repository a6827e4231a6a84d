"""Orders: a command, who gives it and why, as one line of JSON on its way to the run that carries it out.

What arrives is data: it is parsed and checked in full (`cerebro.control.forms`) before anything is done with it.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from cerebro.commands import COMMANDS, Command, command_body, command_name
from cerebro.errors import SpecError

LIMIT_BYTES = 64 * 1024
"""No order is longer than this."""

NOTE_CHARACTERS_MAX = 10_000
"""No note is longer than this."""


@dataclass(frozen=True, slots=True)
class Order:
    """A command, and who gives it."""

    id: str
    """16 hexadecimal digits; what comes twice under one id is carried out once."""
    command: Command
    actor: str = "user"
    note: str = ""
    """Why, in the actor's words."""
    ts: float = field(kw_only=True)
    """When it was given, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to a live run: an order, or the question what it would do."""

    order: Order
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of an order."""

    accepted: bool
    queued: bool
    """Whether it waits for a run to take it up, as none that answers is alive."""
    text: str
    """What it will do, what it would cost, or why it is refused."""
    order: str | None = None
    """The id of the order, where it is durable now and will be carried out."""
    error: str = ""
    """Which error of `cerebro.errors` a refusal is."""

    def __str__(self) -> str:
        return self.text


def new_order(command: Command, actor: str = "user", note: str = "") -> Order:
    """An order that is given now, under a new id."""
    return Order(secrets.token_hex(8), command, actor, note, ts=time.time())


def order_text(order: Order) -> str:
    """An order as one line of JSON; `parse_order` reads it back.

    Raises:
        SpecError: the command holds something that is not JSON.
    """
    return _line(_order_json(order), command_name(order.command))


def parse_order(text: str) -> Order:
    """The order that a line of JSON says.

    Raises:
        SpecError: it is no order, with what was said, the value, and what is allowed.
    """
    return _order(_parsed(text))


def request_text(request: Request) -> str:
    """A request as one line of JSON; `parse_request` reads it back.

    Raises:
        SpecError: as `order_text`.
    """
    value = {"dry_run": request.dry_run, "order": _order_json(request.order)}
    return _line(value, command_name(request.order.command))


def parse_request(text: str) -> Request:
    """The request that a line of JSON says.

    Raises:
        SpecError: as `parse_order`.
    """
    from cerebro.control.forms import RequestForm, filled

    form = filled(RequestForm, _parsed(text), "request")
    return Request(_order(form.order), form.dry_run)


def reply_text(reply: Reply) -> str:
    """A reply as one line of JSON."""
    return json.dumps(asdict(reply), ensure_ascii=False)


def parse_reply(text: str) -> Reply:
    """The reply that a line of JSON says.

    Raises:
        SpecError: it is no reply.
    """
    from cerebro.control.forms import ReplyForm, filled

    return Reply(**filled(ReplyForm, _parsed(text), "reply").model_dump())


def _order_json(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "ts": order.ts,
        "actor": order.actor,
        "note": order.note,
        "command": command_name(order.command),
        "body": command_body(order.command),
    }


def _order(value: Any) -> Order:
    from cerebro.control.forms import BODIES, OrderForm, filled

    form = filled(OrderForm, value, "order")
    body = filled(BODIES[form.command], form.body, form.command)
    command = COMMANDS[form.command](**body.model_dump())
    return Order(form.id, command, form.actor, form.note, ts=float(form.ts))


def _line(value: Mapping[str, Any], what: str) -> str:
    """JSON with the keys in their order: that of a config is the one in which people see it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"{what}: {error}: a config holds finite numbers, strings, booleans, None, lists and dicts of them"
        ) from error


def _parsed(text: str) -> Any:
    size = len(text.encode(errors="surrogatepass"))
    if size > LIMIT_BYTES:
        raise SpecError(f"order: it has {size:,} bytes, and {LIMIT_BYTES:,} are allowed")
    try:
        return json.loads(text, parse_constant=_not_finite, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise SpecError("order: lists and dicts in each other are nested too deep to be read") from None
    except ValueError as error:
        raise SpecError(f"order: {_clipped(text)} is not JSON: {error}") from None


def _not_finite(text: str) -> NoReturn:
    raise SpecError(f"order: {text} is not a finite number")


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise SpecError(f"order: {twice!r} is said twice")
    return found


def _clipped(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
