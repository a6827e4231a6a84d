"""Damage to files at rest, and what became of it: detected, harmless, or a wrong result.

A `Specimen` is a small experiment on the disk in two conditions: finished, and as a kill in the middle leaves it, with
rows in SQLite's write-ahead log. `Specimen.outcome` damages one file of it and then does all that a user would do.
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cerebro.errors import CerebroError
from cerebro.execution.policies import DEFAULT_POLICY
from cerebro.ids import digest_bytes
from cerebro.messages import Event, UnitFinished
from cerebro.session.display import Silent
from cerebro.session.examination import examine
from cerebro.session.experiment import Experiment, make_engine
from cerebro.session.export import load, trained
from cerebro.session.repair import repair
from cerebro.session.run import Run
from cerebro.storage.dataset import open_dataset
from cerebro.storage.store import ExperimentFolder, Store

Outcome = Literal["detected", "harmless", "wrong"]
Damage = Callable[[bytes, random.Random], bytes]

FILES: Mapping[str, tuple[str, str]] = {
    "train shard": ("killed", "data/train-*.arrow"),
    "valid shard": ("killed", "data/valid-*.arrow"),
    "shard after the end": ("finished", "data/train-*.arrow"),
    "manifest": ("killed", "data/manifest.json"),
    "manifest after the end": ("finished", "data/manifest.json"),
    "checkpoint": ("killed", "store/*/states/*.state"),
    "checkpoint after the end": ("finished", "store/*/states/*.state"),
    "catalog": ("killed", "store/*/catalog.sqlite"),
    "catalog after the end": ("finished", "store/*/catalog.sqlite"),
    "write-ahead log": ("killed", "store/*/catalog.sqlite-wal"),
    "remembered pilot": ("killed", "store/.pilots/*.json"),
    "exported weights": ("finished", "exported/model.safetensors"),
    "exported card": ("finished", "exported/model.json"),
}
"""What can be damaged: the condition of the experiment, and the file."""

_SOCKETS = shutil.ignore_patterns("*.sock")
"""What a running experiment leaves open cannot be copied, and holds nothing."""


def flipped(content: bytes, places: random.Random) -> bytes:
    """The content with one bit flipped."""
    index = places.randrange(len(content))
    return content[:index] + bytes([content[index] ^ 1 << places.randrange(8)]) + content[index + 1 :]


def cut(content: bytes, places: random.Random) -> bytes:
    """The content without its end."""
    return content[: places.randrange(len(content))]


DAMAGES: Mapping[str, Damage] = {"one bit flipped": flipped, "cut off": cut}


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one damage."""

    outcome: Outcome
    said: str
    """The first message, or what was wrong."""


class Specimen:
    """A small experiment in two conditions, kept under `folder`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        """Train it; `experiment.data` is `folder/live/data`, and a model takes milliseconds."""
        self._kept, self._live, self._experiment = folder / "kept", folder / "live", experiment
        killed = _CopyInTheMiddle(self._live, self._kept / "killed")
        declaration, means, device = experiment._prepare(1, "inline", "auto", DEFAULT_POLICY)  # pyright: ignore[reportPrivateUsage]
        store = Store(self._live / "store")
        run = Run(declaration, store, self._folder, means, device, lambda: make_engine("inline"), killed)
        run.execute()
        self.board = self._board()
        self._experiment.result(self._live / "store").export(None, self._live / "exported")
        shutil.copytree(self._live, self._kept / "finished", ignore=_SOCKETS)
        self._weights = self._loaded()

    @property
    def _folder(self) -> ExperimentFolder:
        return Store(self._live / "store").experiment(self._experiment.name)

    def outcome(self, name: str, damage: Damage, places: random.Random) -> Report:
        """Damage one file of the kind `name` at a random place, and see what comes of it."""
        condition, pattern = FILES[name]
        shutil.rmtree(self._live)
        shutil.copytree(self._kept / condition, self._live)
        file = places.choice(sorted(self._live.glob(pattern)))
        content = file.read_bytes()
        file.write_bytes(damage(content, places))
        said: list[str] = []
        steps = [self._read, self._exported, self._examined, self._run, self._examined, self._mended, self._run]
        wrong = [found for step in steps if (found := _heard(step, said))]
        if file.is_relative_to(self._live / "data"):  # it is restored, as the messages say
            file.write_bytes(content)
        wrong += [found for step in (self._run, self._states) if (found := _heard(step, said))]
        if wrong:
            return Report("wrong", wrong[0])
        return Report("detected", said[0]) if said else Report("harmless", "")

    def _read(self, said: list[str]) -> str:
        """Whoever looks gets what was written, or an older state of it."""
        rows = {row["model"]: row for row in self._experiment.result(self._live / "store").leaderboard()}
        finished = {model: row for model, row in rows.items() if row["status"] == "finished"}
        different = [model for model, row in finished.items() if _result(row) != self.board[model]]
        return f"the leaderboard is wrong about {different}" if different else ""

    def _exported(self, said: list[str]) -> str:
        if not (self._live / "exported").exists():
            return ""
        return "" if self._loaded() == self._weights else "the exported model is another"

    def _loaded(self) -> Any:
        exported = load(self._live / "exported")
        return exported.card, {name: tensor.numpy().tobytes() for name, tensor in exported.tensors.items()}

    def _examined(self, said: list[str]) -> str:
        findings = examine(self._folder).findings
        said += [str(finding) for finding in findings if finding.about != "status"]
        return ""

    def _mended(self, said: list[str]) -> str:
        _, after = repair(self._folder)
        left = [str(finding) for finding in after.findings if finding.repairable]
        return f"not repaired: {left[0]}" if left else ""

    def _run(self, said: list[str]) -> str:
        """The run ends with the results of an undisturbed one, or says why not."""
        store = self._live / "store"
        result = self._experiment.fit(workers=1, engine="inline", store=store, progress=False)
        with closing(result.folder.reader()) as reader:
            said += [
                event["kind"] for event in reader.events() if "damaged" in event["kind"] or "torn" in event["kind"]
            ]
        return "" if self._board() == self.board else "the run gave another result"

    def _states(self, said: list[str]) -> str:
        for model, row in self.board.items():
            if digest_bytes(trained(self._folder, model)[1]) != row["state_digest"]:
                return f"another state of {model}"
        return ""

    def _board(self) -> dict[str, dict[str, Any]]:
        rows = self._experiment.result(self._live / "store").leaderboard()
        open_dataset(self._experiment.data).verify()
        return {row["model"]: _result(row) for row in rows}


class _CopyInTheMiddle(Silent):
    """Copies the store as a kill would leave it, when half of the units are done."""

    def __init__(self, live: Path, kept: Path) -> None:
        self._live, self._kept, self._seen, self._half = live, kept, 0, 0

    def begin(self, declaration: Any, configs: Any, workload: Any, reader: Any, budget: Any) -> None:
        chains = workload.chains
        self._half = (
            sum(len(chain.train_seconds) + len(chain.valid_seconds) for chain in chains) * declaration.spec.epochs // 2
        )

    def happened(self, event: Event) -> None:
        if isinstance(event, UnitFinished):
            self._seen += 1
            if self._seen == self._half:
                time.sleep(0.3)  # what was handed to the recorder becomes durable
                shutil.copytree(self._live, self._kept, ignore=_SOCKETS)
                for path in (self._kept / "store").glob("*/catalog.sqlite"):
                    _delete_unneeded(ExperimentFolder(path.parent))


def _delete_unneeded(folder: ExperimentFolder) -> None:
    """Delete files that wait to be written over: nothing in them can be damaged."""
    with closing(folder.reader()) as reader:
        folder.checkpoints.collect({row["state_digest"] for row in reader.rows("checkpoints")})


def _heard(step: Callable[[list[str]], str], said: list[str]) -> str:
    """What is wrong after a step; an error of Cerebro's own is an answer, any other is wrong."""
    try:
        return step(said)
    except CerebroError as error:
        said.append(str(error))
        return ""


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("config", "status", "epochs", "metrics", "state_digest", "badge")}
