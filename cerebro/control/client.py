"""How an order comes to its experiment: to the run that is alive, else into the inbox, for the next."""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cerebro import errors
from cerebro.control.console import LINE_BYTES_MAX, address, has_socket
from cerebro.control.knobs import Config, check_known, same
from cerebro.control.orders import Order, Reply, Request, order_text, parse_order, parse_reply, request_text
from cerebro.control.steering import changed
from cerebro.control.validation import Facts, check, cost
from cerebro.errors import CerebroError, SpecError, StoreError
from cerebro.quantities import count_text
from cerebro.storage.inbox import Inbox
from cerebro.storage.store import ExperimentFolder

_PATIENCE_SECONDS = 60.0
"""Shapes may have to be checked by building two large modules."""


def send(folder: ExperimentFolder, order: Order, dry_run: bool, facts: Callable[[], Facts]) -> Reply:
    """Give an order to the run that is alive, or queue it for the next; it is durable when this returns.

    `facts` is asked only where no run answers.

    Raises:
        SpecError: it is no order, or what was asked is not possible.
        StoreError: there is no such model or experiment, or its folder cannot be written.
        CerebroError: what else it is refused for.
    """
    order = parse_order(order_text(order))  # the same checks, wherever it goes
    reply = _asked(folder, Request(order, dry_run)) if folder.driver() is not None else None
    if reply is None:
        return _queued(folder, order, dry_run, facts())
    if not reply.accepted:
        raise _refusal(reply)
    return reply


def answers(folder: ExperimentFolder) -> bool:
    """Whether a run is alive that takes orders."""
    if folder.driver() is None or not has_socket(folder.path):
        return False
    try:
        _connected(folder).close()
    except OSError:
        return False
    return True


def _queued(folder: ExperimentFolder, order: Order, dry_run: bool, facts: Facts) -> Reply:
    text = check(order.command, facts)
    if dry_run:
        return Reply(True, False, f"{text}; it {cost(order.command, facts)}")
    Inbox(folder.path).put(order.id, order_text(order))
    driver = folder.driver()
    if driver is None:
        return Reply(True, True, f"{text}; no run is alive: applied by the next `cerebro run`", order.id)
    return Reply(True, True, f"{text}; queued: process {driver} takes no orders yet: applied when a run does", order.id)


def _asked(folder: ExperimentFolder, request: Request) -> Reply | None:
    """What a live run answers; None if none does.

    One that dies before it answers may have put the order into the inbox: under the same id it is there once.

    Raises:
        StoreError: it is the run of somebody else.
    """
    if not has_socket(folder.path):
        return None
    try:
        with _connected(folder) as connection:
            connection.sendall(request_text(request).encode() + b"\n")
            line = _line(connection)
    except PermissionError as error:
        raise StoreError(
            f"the run of {folder.path.name!r} is not yours: {error.strerror}; ask who started it, or be that user"
        ) from error
    except OSError:  # it has just died, or is stopped
        return None
    return parse_reply(line.decode(errors="replace")) if line.endswith(b"\n") else None


def _connected(folder: ExperimentFolder) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_PATIENCE_SECONDS)
        with address(folder.path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def _line(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n") and len(said) <= LINE_BYTES_MAX and (part := connection.recv(1 << 16)):
        said += part
    return said


def _refusal(reply: Reply) -> CerebroError:
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, CerebroError):
        return kind(reply.text)
    return StoreError(reply.text)


def drill_down(
    space: Mapping[str, Any], base: Config, count: int, seed: int, taken: Sequence[Config] = ()
) -> list[dict[str, Any]]:
    """Configs drawn from `space`, everything else as in `base`; each differs from `base`, the others and `taken`.

    Names in the space may be dotted paths of the base. The same arguments give the same configs.

    Raises:
        SpecError: not a space, it has a name that the base has not, or it holds fewer new configs.
    """
    from cerebro.spec.sampling import sample
    from cerebro.spec.space import check_space

    check_space(space, "space")
    check_known("space", base, space)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SpecError(f"n: {count!r} is not a whole number of at least 1")
    found = list[dict[str, Any]]()

    def is_taken(drawn: Config) -> bool:
        config = changed(base, drawn)
        return any(same(config, other) for other in (base, *found, *taken))

    for index in range(count):
        drawn = sample(space, (seed, "search", "drill-down", index), taken=is_taken)
        if drawn is None:
            raise SpecError(
                f"space: it gives no more than {count_text(len(found), 'new config')} beside those that are trained "
                f"already, and n is {count}: make it wider, or n smaller"
            )
        found.append(changed(base, drawn))
    return found
