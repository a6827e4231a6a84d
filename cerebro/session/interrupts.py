"""Ctrl-C, and how threads take turns, while a run goes on."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_TURN_SECONDS = 0.0002


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a question that is answered yes after Ctrl-C; a second Ctrl-C interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def note(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quick_turns() -> Iterator[None]:
    """Threads take turns quickly: a worker that asks for its next unit waits for no more than a short turn of the
    recorder (the interpreter's default, 5 ms, is as long as some units).
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
