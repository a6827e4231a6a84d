"""Frozen sub-modules of a learner: what they give can stand in for running them.

A frozen sub-module that gets nothing but what is a function of the rows (nothing random, nothing trained) is a derived
column of every shard, defined as computed in batches of `CANONICAL_ROWS` rows in the order of the shard. The kernels
read that column: the user's loss runs as it is, but in the place of the sub-module the rows of the column are given.
Whether that is so is found out on a few rows (`Frozen.find_out`). Where it is not, the sub-module runs in each batch.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from cerebro.errors import ModelError
from cerebro.ids import digest
from cerebro.training.identity import identity_of, tensor_digest
from cerebro.training.probing import Run, close_rows, is_tensor, made_up, preserved, same, shaken
from cerebro.training.randomness import set_generators

CANONICAL_ROWS = 256
TRACED_ROWS = 16
_COLUMN = "\0frozen"

Batch = dict[str, torch.Tensor]
Leaf = tuple[str, int]
"""A frozen sub-module, and the place of a tensor in what it gives."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a frozen sub-module gives, without its rows."""

    spec: TreeSpec
    leaves: tuple[Any, ...]
    """Of each tensor one row that was made up; of everything else the value."""
    written: frozenset[int]
    """The tensors that the loss changes in place, so that each use needs one of its own."""

    @classmethod
    def seen(cls, run: Run, name: str) -> "Output":
        """What the sub-module `name` gave in a run."""
        leaves = tuple(made_up(leaf) if is_tensor(leaf) else leaf for leaf in run.outputs[name])
        return cls(run.spec[name], leaves, run.written(name))

    def is_like(self, other: "Output") -> bool:
        """Whether it differs from another in its rows alone."""
        return (self.spec, self.written) == (other.spec, other.written) and same(self.leaves, other.leaves)

    def filled(self, rows: int, given: Mapping[int, torch.Tensor]) -> Any:
        """An output of so many rows with these tensors in it; all others say nothing."""
        leaves = list(self.leaves)
        for index, leaf in enumerate(self.leaves):
            if is_tensor(leaf):
                found = given[index] if index in given else leaf.expand(rows, *leaf.shape[1:])
                leaves[index] = found.clone() if index in self.written else found
        return tree_unflatten(leaves, self.spec)


@dataclass(frozen=True, slots=True)
class Trace:
    """How the frozen sub-modules are used."""

    outputs: Mapping[str, Output]
    """What each gives, in the order in which they are called."""
    needed: tuple[Leaf, ...]
    """What of that reaches what is trained; the rest serves the sub-modules alone."""
    reason: str = ""
    """Why they are run in each batch, if they are."""

    def is_like(self, other: "Trace") -> bool:
        """Whether one can be taken for the other."""
        return (
            (self.needed, self.reason, list(self.outputs)) == (other.needed, other.reason, list(other.outputs))
            and all(output.is_like(other.outputs[name]) for name, output in self.outputs.items())
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Given:
    """What frozen sub-modules gave once, to be given again in their place."""

    outputs: Mapping[str, Output]
    values: Mapping[str, Sequence[Any]]

    def leaves(self) -> list[Leaf]:
        """Every tensor among it."""
        return [(name, i) for name in self.outputs for i, leaf in enumerate(self.values[name]) if is_tensor(leaf)]

    def of(self, batch: Mapping[str, torch.Tensor], left_out: Collection[Leaf] = ()) -> Callable[[str], Any]:
        """What gives it for the first rows, as many as the batch has; what is left out says nothing."""
        rows = _rows(batch)
        chosen = [leaf for leaf in self.leaves() if leaf not in left_out]

        def give(name: str) -> Any:
            given = {index: self.values[name][index][:rows] for owner, index in chosen if owner == name}
            return self.outputs[name].filled(rows, given)

        return give


class Frozen:
    """The frozen sub-modules of one learner.

    `salt` tells them apart from others where what they are cannot be told.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], loss: Callable[..., Any], salt: str) -> None:
        self._module, self._loss = module, loss
        self._parts = _parts(module, names)
        self._tensors = _tensors(self._parts.values())
        self.ids = {id(tensor) for tensor in self._tensors}
        self.weights = weights_digest(self._parts.values())
        self.identity = digest([identity_of(list(self._parts.values())) or salt, self.weights])
        self.name = ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"
        self.trace: Trace | None = None
        self.keys: dict[tuple[str, int], str] = {}
        """The key of the derived columns of a shard, by split and index."""

    @property
    def description(self) -> dict[str, Any]:
        """What a state that was trained with them says of them, as JSON."""
        return {"parts": list(self._parts), "weights": self.weights}

    @property
    def is_derived(self) -> bool:
        """Whether columns stand in for the sub-modules."""
        return self.trace is not None and not self.trace.reason

    @property
    def row_bytes(self) -> int:
        """What the derived columns take for a row."""
        trace = self._known
        return sum(trace.outputs[name].leaves[index].nbytes for name, index in trace.needed)

    def is_used_like(self, other: "Frozen") -> bool:
        """Whether the sub-modules of two learners give as much, and as much of it is needed."""
        return self._known.is_like(other._known)

    def borrow(self, other: "Frozen") -> None:
        """Use the memory of another learner's frozen weights, which are the same."""
        for own, theirs in zip(self._tensors, other._tensors, strict=True):
            own.data = theirs.data

    @property
    def places(self) -> list[list[int]]:
        """Which tensors of which sub-modules the derived columns are."""
        order = list(self._parts)
        return [[order.index(name), index] for name, index in self._known.needed]

    def loss(self, module: nn.Module, batch: Batch) -> Any:
        """The user's loss of a batch, whose derived columns stand in for the sub-modules."""
        with self.standing_in(module, batch):
            return self._loss(module, batch)

    @contextmanager
    def standing_in(self, module: nn.Module, batch: Batch) -> Iterator[None]:
        """Takes the derived columns out of a batch, and gives them in the place of the sub-modules of `module`."""
        trace = self._known
        if trace.reason:
            yield
            return
        given = dict[str, dict[int, torch.Tensor]]()
        for (name, index), column in zip(trace.needed, self.columns(), strict=True):
            given.setdefault(name, {})[index] = batch.pop(column)
        rows, left = _rows(batch), dict(trace.outputs)

        def take(name: str) -> Any:
            if name not in left:
                raise ModelError(f"Learner.freeze: {name} is called again in a batch; in the first rows it was once")
            return left.pop(name).filled(rows, given.get(name, {}))

        parts = {name: module.get_submodule(name) for name in self._parts}
        with _replaced(parts, lambda name, _: lambda *args, **kwargs: take(name)):
            yield

    def columns(self) -> list[str]:
        """The names of the derived columns."""
        return [f"{_COLUMN}/{name}/{index}" for name, index in self._known.needed]

    def compute(self, batch: Batch) -> list[torch.Tensor]:
        """The derived columns of a canonical batch."""
        trace = self._known
        run = Run(until=trace.needed[-1][0], note=lambda leaf: None)
        self._run(run, batch)
        return [run.outputs[name][index].detach().cpu() for name, index in trace.needed]

    def inputs(self, batch: Batch, content: Callable[[Any], str]) -> list[str]:
        """The `content` of what the sub-modules get of a canonical batch; found without running them."""
        trace, rows = self._known, _rows(batch)
        given = {name: output.filled(rows, {}) for name, output in trace.outputs.items()}
        run = Run(given.__getitem__, until=trace.needed[-1][0], note=content)
        self._run(run, batch)
        return [leaf for _, leaves in run.calls for leaf in leaves]

    @property
    def _known(self) -> Trace:
        assert self.trace is not None, "nobody has found out yet how the sub-modules are used"
        return self.trace

    def find_out(self, batch: Mapping[str, torch.Tensor], training_mode: Callable[[], None], reason: str = "") -> None:
        """Trace the use of the sub-modules on a few rows, unless `reason` says that they are run in each batch."""
        if reason:
            self.trace = Trace({}, (), reason)
            return
        others = [t for t in (*self._module.parameters(), *self._module.buffers()) if id(t) not in self.ids]
        with preserved(others) as before:
            self.trace = self._traced(batch, training_mode, dict(zip(others, before, strict=True)))

    def _traced(
        self,
        batch: Mapping[str, torch.Tensor],
        training_mode: Callable[[], None],
        others: Mapping[torch.Tensor, torch.Tensor],
    ) -> Trace:
        """How they are used; `others` are all other tensors of the module, with what they held before."""
        training_mode()
        first = self._seen(batch, Run(), 0)
        again = self._seen(batch, Run(), 1)
        if reason := self._misuse(first, again, _rows(batch)):
            return Trace({}, (), reason)
        true = _Given({name: Output.seen(first, name) for name, _ in first.calls}, first.outputs)
        self._module.eval()
        measured = self._seen(batch, Run(true.of(batch)), 0)
        if [name for name, _ in measured.calls] != list(true.outputs):
            return Trace({}, (), f"{self.name} is used otherwise in evaluation mode")
        # What a pass in training mode leaves as it is, and no optimizer trains, is a constant.
        shaken([tensor for tensor, before in others.items() if tensor.requires_grad or not same([tensor], [before])])
        for before, set_mode in ((measured, self._module.eval), (first, training_mode)):
            set_mode()
            if not _same_calls(before, self._seen(batch, Run(true.of(batch)), 1)):
                return Trace({}, (), f"what goes into {self.name} is not the same twice: it is random, or trained")
            if not self._is_by_row(batch, true, before):
                return Trace({}, (), f"what goes into {self.name} depends on the other rows of the batch")
        needed = self._needed(batch, true)
        return Trace(true.outputs, needed, "" if needed else f"nothing depends on what {self.name} gives")

    def _misuse(self, run: Run, again: Run, rows: int) -> str:
        for name in self._parts:
            count = sum(called == name for called, _ in run.calls)
            if count != 1:
                return f"{name} is called {count} times in a batch"
        if run.changed:
            return f"{run.changed[0]} changes what goes into it in place"
        if not _same_calls(run, again):
            return f"what goes into {self.name} is not the same twice: it is random, or trained"
        for name, leaves in run.calls:
            if any(is_tensor(leaf) and leaf.requires_grad for leaf in leaves):
                return f"what goes into {name} is trained"
            if not same(run.outputs[name], again.outputs[name]):
                return f"{name} gives not the same twice: it is random, or remembers"
            tensors = [leaf for leaf in run.outputs[name] if is_tensor(leaf)]
            if not tensors or any(leaf.dim() == 0 or len(leaf) != rows for leaf in tensors):
                return f"{name} does not give tensors with a row for each row of the batch"
        return ""

    def _is_by_row(self, batch: Mapping[str, torch.Tensor], true: "_Given", whole: Run) -> bool:
        rows = _rows(batch)
        half = rows // 2
        if not half:
            return True
        few = {name: column[:half] for name, column in batch.items()}
        part = self._seen(few, Run(true.of(few)), 1)
        if [name for name, _ in part.calls] != [name for name, _ in whole.calls]:
            return False
        pairs = [(a, b) for (_, a), (_, b) in zip(whole.calls, part.calls, strict=True)]
        return all(
            len(a) == len(b) and all(close_rows(one, other, rows, half) for one, other in zip(a, b, strict=True))
            for a, b in pairs
        )

    def _needed(self, batch: Mapping[str, torch.Tensor], true: "_Given") -> tuple[Leaf, ...]:
        """The tensors without which the loss or the module's output would be another."""

        def result(left_out: Collection[Leaf]) -> list[Any]:
            return self._seen(batch, Run(true.of(batch, left_out)), 2).result

        every, expected = true.leaves(), result(())
        spare = [leaf for leaf in every if same(expected, result([leaf]), finite=True)]
        if not same(expected, result(spare), finite=True):
            spare = []
        return tuple(leaf for leaf in every if leaf not in spare)

    def _seen(self, batch: Mapping[str, torch.Tensor], run: Run, key: int) -> Run:
        set_generators(("trace", key))
        self._run(run, {name: column.clone() for name, column in batch.items()})
        return run

    def _run(self, run: Run, batch: Batch) -> None:
        with _replaced(self._parts, run.forward), run.watching(self._module):
            run.result = [*run.result, *tree_flatten(self._loss(self._module, batch))[0]]


def freeze(module: nn.Module, names: Sequence[str]) -> None:
    """Take gradients from sub-modules, and put them into evaluation mode."""
    for name in names:
        module.get_submodule(name).requires_grad_(False).eval()


@contextmanager
def _replaced(
    parts: Mapping[str, nn.Module], forward: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Other functions in the place of what the parts of a module compute; the module itself stays as it is."""
    fields = {name: vars(part) for name, part in parts.items()}
    own = {name: held["forward"] for name, held in fields.items() if "forward" in held}
    for name, held in fields.items():
        held["forward"] = forward(name, parts[name].forward)
    try:
        yield
    finally:
        for name, held in fields.items():
            del held["forward"]
            if name in own:
                held["forward"] = own[name]


def _rows(batch: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(batch.values())))


def weights_digest(parts: Iterable[nn.Module]) -> str:
    """The digest of all parameters and buffers of some modules."""
    return digest([tensor_digest(tensor) for tensor in _tensors(parts)])


def _tensors(parts: Iterable[nn.Module]) -> list[torch.Tensor]:
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]


def _parts(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The frozen sub-modules by name, those within others left out; lists of modules count as their members."""
    found = dict[str, nn.Module]()
    for name in names:
        if any(name != other and name.startswith(f"{other}.") for other in names):
            continue
        part = module.get_submodule(name)
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            found |= _parts(module, [f"{name}.{child}" for child, _ in part.named_children()])
        else:
            found[name] = part
    return found


def _same_calls(one: Run, other: Run) -> bool:
    pairs = zip(one.calls, other.calls, strict=False)
    return len(one.calls) == len(other.calls) and all(a == b and same(c, d) for (a, c), (b, d) in pairs)
