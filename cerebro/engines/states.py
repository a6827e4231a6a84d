"""Which shared-memory slot holds the present state of each model, on the driver's side."""

import threading
from dataclasses import dataclass

from cerebro.execution.engine import StateHandle
from cerebro.training.transport import Slot, new_slot


@dataclass(slots=True)
class _Stored:
    """A state in a slot, used by `holders`: its model while it is the present one, and every open handle."""

    slot: Slot
    size: int
    holders: int = 1


class SlotHandle(StateHandle):
    """A state in shared memory, kept from being overwritten."""

    def __init__(self, states: "States", stored: _Stored) -> None:
        self._states, self._stored = states, stored

    def view(self) -> memoryview:
        return self._stored.slot.view(self._stored.size)

    def release(self) -> None:
        self._states.drop(self._stored)


class States:
    """The present state of each model; a slot is used again when nobody needs what it holds."""

    def __init__(self) -> None:
        self._present: dict[str, _Stored] = {}
        self._free: list[Slot] = []
        self._slots: list[Slot] = []
        self._lock = threading.Lock()  # handles are released by the thread that makes states durable

    def present(self, model: str) -> tuple[Slot, int] | None:
        """The slot and size of the present state of `model`, if it has one in memory."""
        stored = self._present.get(model)
        return (stored.slot, stored.size) if stored else None

    def put(self, model: str, state: bytes) -> tuple[Slot, int]:
        """Make `state` the present one of `model`."""
        slot = self.take_slot()
        slot.room_for(len(state))[:] = state
        self.replace(model, slot, len(state))
        return slot, len(state)

    def take_slot(self) -> Slot:
        """A slot that holds nothing anybody needs."""
        with self._lock:
            if self._free:
                return self._free.pop()
            slot = new_slot(len(self._slots))
            self._slots.append(slot)
            return slot

    def give_back(self, slot: Slot) -> None:
        """Return a slot that was taken and not used."""
        with self._lock:
            self._free.append(slot)

    def replace(self, model: str, slot: Slot, size: int) -> None:
        """Make what `slot` holds the present state of `model`."""
        before = self._present.get(model)
        self._present[model] = _Stored(slot, size)
        if before is not None:
            self.drop(before)

    def handle(self, model: str) -> StateHandle:
        """A handle on the present state of `model`."""
        stored = self._present[model]
        with self._lock:
            stored.holders += 1
        return SlotHandle(self, stored)

    def forget(self, model: str) -> None:
        """Drop the state of a model that is not trained for now; handles keep theirs."""
        stored = self._present.pop(model, None)
        if stored is not None:
            self.drop(stored)

    def drop(self, stored: _Stored) -> None:
        """One holder fewer; the last one frees the slot."""
        with self._lock:
            stored.holders -= 1
            if stored.holders == 0:
                self._free.append(stored.slot)

    def close(self) -> None:
        """Give all memory back."""
        for slot in self._slots:
            slot.close()
        self._slots, self._free, self._present = [], [], {}
