"""What a procedure is waiting for, and which models can still go on: also when a person has stopped or resumed some."""

from enum import Enum, auto

from cerebro.control.procedure import Result
from cerebro.control.procedures.checks import cost


class News(Enum):
    """What a result is to the procedure that it was told to."""

    CAME = auto()
    """The result that was waited for; it may be a failure."""
    LOST = auto()
    """A model that was waited for went past the epoch that it was asked for: nothing comparable will come."""
    OTHER = auto()
    """Of a model, or at an epoch, that was not asked for."""


class Ledger:
    """The models of one run of a procedure."""

    def __init__(self) -> None:
        self.awaited: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._gone: set[str] = set()

    def expect(self, model: str, epoch: int) -> None:
        """Wait for `model` to come to `epoch`."""
        assert model not in self.awaited, f"{model} is already waited for"
        self._numbers.setdefault(model, len(self._numbers))
        self.awaited[model] = epoch

    def settle(self, result: Result) -> News:
        """Take in a result."""
        model, failed = result.model, cost(result.value, "min") == float("inf")
        if model not in self._numbers:
            return News.OTHER
        self._reached[model] = max(result.epoch, self._reached.get(model, 0))
        if failed:
            self._gone.add(model)
        asked = self.awaited.get(model)
        if asked is None or (result.epoch < asked and not failed):
            return News.OTHER
        del self.awaited[model]
        return News.CAME if failed or result.epoch == asked else News.LOST

    def censor(self, model: str) -> bool:
        """A person stopped `model`: it is left to them. Whether it was waited for."""
        self._gone.add(model)
        return self.awaited.pop(model, None) is not None

    def can_go_on(self, model: str, until: int) -> bool:
        """Whether `model` can be asked for `until`: it has not failed, nor been stopped, nor gone so far already."""
        return model not in self._gone and model not in self.awaited and self._reached.get(model, 0) < until

    def number(self, model: str) -> int:
        """The place of `model` in the order in which models began: ties go to the earlier one."""
        return self._numbers[model]

    def __contains__(self, model: str) -> bool:
        return model in self._numbers
