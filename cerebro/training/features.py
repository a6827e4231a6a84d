"""Derived columns of shards, for the learners of one worker: computed, kept in memory, or read from the store.

A column's key is the digest of all that it is a function of: the frozen weights and their code, the batches' size, the
fingerprint, and what goes into the frozen part. Of the latter the user's own loss tells, as it runs up to that point:
so no analysis of code has to be trusted for two models to share a column.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import torch

from cerebro.ids import digest
from cerebro.plan.features import Features
from cerebro.storage.dataset import OpenShard
from cerebro.storage.feature_parts import Parts
from cerebro.storage.features import FeatureStore, Stored
from cerebro.training.fingerprint import fingerprint
from cerebro.training.frozen import CANONICAL_ROWS, TRACED_ROWS, Frozen
from cerebro.training.fused.strides import NotFusedError
from cerebro.training.identity import identity_of, tensor_bytes
from cerebro.training.layout import dtype_name
from cerebro.training.learners import LiveLearner
from cerebro.training.train import Columns, batches
from cerebro.training.view import View

Derived = dict[str, torch.Tensor]
Compute = Callable[[Columns], Derived]
PARTS = 8
"""In so many parts at most a shard is shared out among workers that compute its columns."""
_AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Source:
    """Columns that others are derived of."""

    columns: Columns
    names: Mapping[str, str]
    """What tells each column from all others."""
    split: str
    shard: int


class DerivedColumns:
    """What a worker knows of derived columns; `first_rows` gives columns to find out on what is derived at all."""

    def __init__(self, device: torch.device, first_rows: Callable[[], Columns]) -> None:
        self._device, self._first_rows = device, first_rows
        self._kept: OrderedDict[str, Derived] = OrderedDict()
        self._weights: WeakValueDictionary[str, Frozen] = WeakValueDictionary()
        self._fingerprint = ""
        self.prefer(Features())

    def prefer(self, features: Features) -> None:
        """Do as `features` says from now on."""
        self._features = features
        self._store = FeatureStore(Path(features.folder), features.budget_bytes, features.since)

    def share_weights(self, frozen: Frozen) -> None:
        """Keep frozen weights once for all learners that have the same."""
        first = self._weights.setdefault(frozen.weights, frozen)
        if first is not frozen:
            frozen.borrow(first)

    def of_shard(self, live: LiveLearner, split: str, index: int, shard: OpenShard, content: str) -> Columns:
        """The columns of a shard, whose digest is `content`, and what is derived of them for a learner."""
        if live.view is None and live.frozen is None:
            return shard.columns
        source = self._source(live, split, index, shard, content)
        if live.frozen is not None and live.frozen.is_derived:
            return {**source.columns, **self._frozen(live, live.frozen, source)}
        return source.columns

    def of_shard_for_all(
        self, lives: Sequence[LiveLearner], split: str, index: int, shard: OpenShard, content: str
    ) -> Columns:
        """As `of_shard`, for learners whose parts that derive are equal.

        Raises:
            NotFusedError: what goes into these parts differs.
        """
        if any(live.frozen is not None and live.frozen.is_derived for live in lives):
            self._check_same(lives, self._source(lives[0], split, index, shard, content))
        return self.of_shard(lives[0], split, index, shard, content)

    def of_rows_for_all(self, lives: Sequence[LiveLearner], columns: Columns) -> Columns:
        """As `of_rows`, for learners whose parts that derive are equal; raises as `of_shard_for_all` does."""
        columns, _ = self.of_rows(lives[0], columns)
        self._check_same(lives, Source(columns, {name: name for name in columns}, "pilot", 0))
        return columns

    def _check_same(self, lives: Sequence[LiveLearner], source: Source) -> None:
        keys = {self._frozen_key(live, live.frozen, source) for live in lives if live.frozen and live.frozen.is_derived}
        if len(keys) > 1:
            raise NotFusedError("what goes into their frozen parts differs")

    def of_rows(self, live: LiveLearner, columns: Columns) -> tuple[Columns, list[dict[str, Any]]]:
        """A few rows with what is derived of them, and what each derivation costs a row."""
        self.find_out(live)
        costs = list[dict[str, Any]]()
        for part in (live.view, live.frozen):
            if part is None:
                continue
            cost: dict[str, Any] = {"key": part.identity, "name": part.name, "note": part_reason(part)}
            if part.is_derived:
                rows = len(next(iter(columns.values())))
                made, seconds = self._timed(live, part, columns)
                cost["row_seconds"] = seconds / rows
                cost["row_bytes"] = sum(column.nbytes for column in made.values()) / rows
                columns = part.shown(columns, made) if isinstance(part, View) else {**columns, **made}
            costs.append(cost)
        return columns, costs

    def _timed(self, live: LiveLearner, part: Frozen | View, columns: Columns) -> tuple[Derived, float]:
        """What a part makes of a few rows, and its seconds; what is quick is done twice, since the first is slower."""
        seconds = 0.0
        while True:
            before, is_again = time.perf_counter(), seconds > 0
            made = self._compute(live, part, "train", columns)
            seconds = time.perf_counter() - before
            if is_again or seconds > _AGAIN_SECONDS:
                return made, seconds

    def find_out(self, live: LiveLearner) -> None:
        """See what can be derived for a learner, unless that is known."""
        view, frozen = live.view, live.frozen
        if (view is None or view.reason is not None) and (frozen is None or frozen.trace is not None):
            return
        few = {name: column[:TRACED_ROWS] for name, column in self._first_rows().items()}
        batch = next(batches(few, TRACED_ROWS, None, self._device, drop_last=False))
        if view is not None:
            view.find_out(batch)
        if frozen is not None:
            inline = (
                f"the view is applied to each batch, since {view.reason}" if view is not None and view.reason else ""
            )
            frozen.find_out(batch if view is None or inline else view.of(batch), live.training_mode, inline)

    def _source(self, live: LiveLearner, split: str, index: int, shard: OpenShard, content: str) -> Source:
        """The columns that go into the frozen part."""
        names = {name: f"{content}/{name}" for name in shard.columns}
        source = Source(shard.columns, names, split, index)
        if live.view is not None and live.view.is_derived:
            source = self._viewed(live, live.view, source)
        return source

    def _viewed(self, live: LiveLearner, view: View, source: Source) -> Source:
        key = self._digest([view.identity, sorted(source.names.values())])
        compute = partial(self._compute, live, view, source.split)
        made = self._got(view.identity, source, lambda: key, compute, 0)
        columns = view.shown(source.columns, made)
        names = {name: f"{key}/{name}" if name in made else source.names[name] for name in columns}
        return Source(columns, names, source.split, source.shard)

    def _frozen(self, live: LiveLearner, frozen: Frozen, source: Source) -> Derived:
        key = partial(self._frozen_key, live, frozen, source)
        compute = partial(self._compute, live, frozen, source.split)
        found = self._got(frozen.identity, source, key, compute, frozen.row_bytes)
        # Models that share a key have the same columns in the same order; what each calls them is its own.
        return dict(zip(frozen.columns(), found.values(), strict=True))

    def _compute(self, live: LiveLearner, part: Frozen | View, split: str, columns: Columns) -> Derived:
        """The definition of derived columns: canonical batches in the order of the shard."""
        _set_mode(live, split)
        found, names = dict[str, list[torch.Tensor]](), set[str]()
        with torch.no_grad():
            for batch in batches(columns, CANONICAL_ROWS, None, self._device, drop_last=False):
                if isinstance(part, View):
                    made, changed = part.changed(batch)
                else:
                    made = dict(zip(part.columns(), part.compute(batch), strict=True))
                    changed = made.keys()
                names |= changed
                for name, column in made.items():
                    found.setdefault(name, []).append(column.detach().cpu())
        return {name: torch.cat(made) for name, made in found.items() if name in names}

    def _frozen_key(self, live: LiveLearner, frozen: Frozen, source: Source) -> str:
        """The key of what a frozen part makes of a shard."""
        place = (source.split, source.shard)
        if place not in frozen.keys:
            frozen.keys[place] = self._key_of_inputs(live, frozen, source)
        return frozen.keys[place]

    def _key_of_inputs(self, live: LiveLearner, frozen: Frozen, source: Source) -> str:
        """The key by what goes into it, batch after batch."""
        _set_mode(live, source.split)
        inputs = list[list[str]]()
        with torch.no_grad():
            for batch in batches(source.columns, CANONICAL_ROWS, None, self._device, drop_last=False):
                held = dict(batch)  # so that no other tensor can be in their place
                known = {_place(column): source.names[name] for name, column in held.items()}
                inputs.append(frozen.inputs(batch, partial(_content, known)))
        return self._digest([frozen.identity, frozen.places, inputs])

    def _digest(self, parts: list[Any]) -> str:
        self._fingerprint = self._fingerprint or digest(fingerprint(str(self._device)))
        return digest([parts, CANONICAL_ROWS, self._fingerprint])

    def _got(self, part: str, source: Source, key_of: Callable[[], str], compute: Compute, row_bytes: int) -> Derived:
        """Derived columns by the way that was chosen for them."""
        way = self._features.way_of(part, source.split, source.shard)
        if way == "recompute":
            return compute(source.columns)
        key = key_of()
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        if way == "materialize":
            return self._materialized(key, source.columns, compute, row_bytes)
        found = compute(source.columns)
        self._keep(key, found)
        return found

    def _materialized(self, key: str, columns: Columns, compute: Compute, row_bytes: int) -> Derived:
        """Derived columns from the store; all workers that need them now put them there, each a part."""
        stored = self._store.read(key)
        found = _tensors(stored) if stored is not None else self._stored_together(key, columns, compute, row_bytes)
        if found is None:  # there is no room
            found = compute(columns)
            self._keep(key, found)
        return found

    def _stored_together(self, key: str, columns: Columns, compute: Compute, row_bytes: int) -> Derived | None:
        rows = len(next(iter(columns.values())))
        step = -(-rows // (PARTS * CANONICAL_ROWS)) * CANONICAL_ROWS

        def made(part: int) -> list[Stored]:
            few = {name: column[part * step : (part + 1) * step] for name, column in columns.items()}
            return _stored(compute(few))

        try:
            if not self._store.has_room(rows * row_bytes, key):
                return None
            parts = Parts(self._store.folder, key, -(-rows // step))
            gathered = parts.gathered(made, lambda: self._store.holds(key))
            if gathered is not None:
                found = _joined([_tensors(part) for part in gathered])
                if not self._store.holds(key) and not self._store.write(key, _stored(found)):
                    self._keep(key, found)
                parts.remove()
                return found
            stored = self._store.read(key)
        except OSError:  # a full disk, or one that is read-only
            return None
        return None if stored is None else _tensors(stored)

    def _keep(self, key: str, columns: Derived) -> None:
        self._kept[key] = columns
        while (
            self._kept
            and sum(c.nbytes for kept in self._kept.values() for c in kept.values()) > self._features.memory_bytes
        ):
            self._kept.popitem(last=False)


def part_reason(part: Frozen | View) -> str:
    """Why a part is applied in each batch; empty where it is derived."""
    return (part.reason if isinstance(part, View) else part.trace.reason if part.trace else "") or ""


def _set_mode(live: LiveLearner, split: str) -> None:
    if split == "train":
        live.training_mode()
    else:
        live.module.eval()


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor._version


def _content(known: Mapping[tuple[Any, ...], str], leaf: Any) -> str:
    """What tells an input from others: the column that it is, or its content."""
    if not isinstance(leaf, torch.Tensor):
        return identity_of(leaf) or f"a value of its own: {uuid4()}"
    if (name := known.get(_place(leaf))) is not None:
        return name
    found = hashlib.sha256(f"{dtype_name(leaf.dtype)} {tuple(leaf.shape)} {leaf.stride()}".encode())
    is_repeated = leaf.dim() > 0 and leaf.stride(0) == 0  # as what stands in for an output that says nothing
    found.update(tensor_bytes(leaf[:1] if is_repeated else leaf))
    return found.hexdigest()


def _stored(columns: Derived) -> list[Stored]:
    return [
        Stored(name, dtype_name(column.dtype), tuple(column.shape), tensor_bytes(column))
        for name, column in columns.items()
    ]


def _joined(parts: Sequence[Derived]) -> Derived:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _tensors(stored: Sequence[Stored]) -> Derived:
    return {
        column.name: torch.frombuffer(column.content, dtype=getattr(torch, column.dtype)).reshape(column.shape)
        for column in stored
    }
