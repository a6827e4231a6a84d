"""Taking a trained model out of the store, and into a program that need not know of it."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import DataError, StoreError
from cerebro.ids import digest, digest_bytes
from cerebro.plan.program import stream_key
from cerebro.report.leaderboard import leaderboard
from cerebro.session.members import members_in
from cerebro.spec.experiment import ExperimentSpec
from cerebro.spec.stages import at_epoch
from cerebro.storage.destination import sync
from cerebro.storage.store import ExperimentFolder

WEIGHTS = "model.safetensors"
CARD = "model.json"
_FORMAT = 1


@dataclass(frozen=True)
class Exported:
    """A model as it was exported: its config, what it scored, and its tensors by name."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    card: Mapping[str, Any]
    tensors: Mapping[str, Any]


def export(
    folder: ExperimentFolder,
    model: str,
    destination: str | os.PathLike[str],
    declared: Callable[[], ExperimentSpec] | None = None,
) -> Path:
    """Write `model` as safetensors with a small `model.json`; gives the folder, which appears whole or not at all.

    Frozen weights are not in the store: for a model that has some, `declared` gives the experiment that builds them.

    Raises:
        StoreError: no such model, or it was not trained, or what builds its frozen weights is not at hand.
        DataError: the destination exists.
    """
    from cerebro.training.export import is_whole, save_weights, weights_in

    target = Path(destination)
    row, state = trained(folder, model)
    if target.exists():
        raise DataError(f"{target} exists: give a folder that does not")
    weights = (
        weights_in(memoryview(state))
        if is_whole(memoryview(state))
        else _built(folder, row, memoryview(state), declared)[1]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        save_weights(weights, scratch / WEIGHTS)
        card = {"format": _FORMAT, "experiment": folder.path.name, **row}
        card["weights_sha256"] = digest_bytes((scratch / WEIGHTS).read_bytes())
        (scratch / CARD).write_text(json.dumps({**card, "digest": digest(card)}, indent=2) + "\n")
        scratch.chmod(0o755)
        for path in (scratch / WEIGHTS, scratch / CARD, scratch):
            sync(path)
        scratch.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def load(directory: str | os.PathLike[str], build: Callable[[Mapping[str, Any]], Any] | None = None) -> Any:
    """An exported model: with `build`, the trained module in evaluation mode; without it, an `Exported`.

    Raises:
        DataError: not an exported model, a damaged one, or `build` gives another module.
    """
    from cerebro.training.export import put_weights, read_weights

    folder = Path(directory)
    try:
        card = json.loads((folder / CARD).read_text())
        _check(folder / CARD, card.pop("digest", None), digest(card))
        _check(folder / WEIGHTS, card["weights_sha256"], digest_bytes((folder / WEIGHTS).read_bytes()))
        weights = read_weights(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{folder} is not an exported model ({error}): make one with `cerebro export`") from error
    if build is None:
        return Exported(card["config"], card["metrics"], card, weights)
    return put_weights(build(last_config(card)).module, weights)


def _check(file: Path, expected: str | None, found: str) -> None:
    if expected != found:
        raise DataError(f"{file} is damaged: digest {expected} expected, {found} found; export the model again")


def load_state(folder: ExperimentFolder, model: str, spec: ExperimentSpec) -> Any:
    """The trained module of `model`, in evaluation mode."""
    from cerebro.training.export import put_weights

    row, state = trained(folder, model)
    return put_weights(*_built(folder, row, memoryview(state), lambda: spec))


def _built(
    folder: ExperimentFolder, row: Mapping[str, Any], state: memoryview, declared: Callable[[], ExperimentSpec] | None
) -> tuple[Any, dict[str, Any]]:
    """The module of a model and all its weights, built as its workers did."""
    from cerebro.training.export import built

    if declared is None:
        raise StoreError(
            f"model {row['model']!r} has frozen weights, which only its build gives: use experiment.result()"
        )
    with closing(folder.reader()) as reader:
        member = members_in(reader)[row["model"]]
    spec = declared()
    key = stream_key(spec.seed, spec.independent, member, "init")
    return built(spec.build, last_config(row), key, state)


def last_config(row: Mapping[str, Any]) -> dict[str, Any]:
    """The config that the model of a row of the leaderboard was trained with last."""
    return at_epoch(row["config"], max(1, row["epochs"]))


def trained(folder: ExperimentFolder, model: str) -> tuple[dict[str, Any], bytes]:
    """The leaderboard's row of a model that has been trained, and the state that it speaks of, verified.

    Raises:
        StoreError: no such model, it was not trained, or its state is missing or damaged.
    """
    before = None
    while True:
        row = _trained_row(folder, model)
        try:
            return row, folder.checkpoints.read(row["state_digest"])
        except StoreError:
            if row["state_digest"] == before:
                raise
            before = row["state_digest"]  # a run that is alive may have put a newer one in its place


def _trained_row(folder: ExperimentFolder, model: str) -> dict[str, Any]:
    with closing(folder.reader()) as reader:
        reader.check_model(model)
        row = next(row for row in leaderboard(reader) if row["model"] == model)
    if row["state_digest"] is None:
        raise StoreError(f"model {model!r} of {folder.path.name!r} is {row['status']} and was not trained yet")
    return row
