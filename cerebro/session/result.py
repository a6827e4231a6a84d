"""What an experiment gave: the leaderboard, and the models behind it."""

from contextlib import closing
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.console import Console

from cerebro.errors import SpecError, StoreError
from cerebro.report.leaderboard import best_of, leaderboard
from cerebro.report.repeats import config_leaderboard
from cerebro.report.table import print_table
from cerebro.session.diff import Diff, diff
from cerebro.session.export import export, load_state
from cerebro.session.importance import importance
from cerebro.session.lineage import ModelLineage, lineage
from cerebro.session.replay import Replay, replay
from cerebro.session.retry import Retry, retry
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.store import ExperimentFolder


class Leaderboard(list[dict[str, Any]]):
    """The models, best first, as mappings; prints as a table."""

    def __init__(self, rows: list[dict[str, Any]], metric: str, mode: str, name: str) -> None:
        super().__init__(rows)
        self.metric, self.mode, self._name = metric, mode, name

    def print(self) -> None:
        """Print the table, with as many columns as the terminal is wide."""
        print_table(self, self.metric, self.mode, self._name)

    def __str__(self) -> str:
        text = StringIO()
        print_table(self, self.metric, self.mode, self._name, Console(file=text))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@dataclass(frozen=True, slots=True)
class Result:
    """What an experiment gave so far; reads the store, and trains nothing."""

    folder: ExperimentFolder
    spec: ExperimentSpec | None = None

    def leaderboard(self, each: bool = False) -> Leaderboard:
        """The models, best first: `{model, config, status, epochs, metrics, state_digest, seconds, badge}`.

        The repeats of a config are one row with their means, and besides `repeats`, how many there are, `models`, what
        they are called, and `stderr`, the standard errors of the means, like `metrics`. With `each` every repeat has
        a row.

        `metrics["valid"]` was measured on the model as it is after its last epoch; `metrics["train"]` holds the
        example-weighted running values of that epoch, measured while the weights moved.
        """
        with closing(self.folder.reader()) as reader:
            row = reader.experiment()
            rows = leaderboard(reader) if each else config_leaderboard(reader)
            return Leaderboard(rows, row["metric"], row["mode"], row["name"])

    @property
    def best(self) -> dict[str, Any]:
        """The first row of the leaderboard.

        Raises:
            StoreError: no model has a value of the deciding metric yet.
        """
        rows = self.leaderboard()
        best = best_of(rows, rows.metric)
        if best is None:
            raise StoreError(f"experiment {self.folder.path.name!r} has no trained model yet")
        return best

    def dataframe(self) -> Any:
        """The leaderboard as a pandas frame, one column for each config key and metric."""
        import pandas

        return pandas.json_normalize(list(self.leaderboard()))

    def importance(self) -> dict[str, float]:
        """By dimension, such as `optimizer.lr`, its share of what the trained models differ in, the largest first.

        Raises:
            SpecError: Optuna is not installed.
            StoreError: too few models have come to the last epoch, or they do not differ.
        """
        return importance(self.folder)

    def load(self, model: str | None = None) -> Any:
        """The trained `torch.nn.Module` of `model` (the best by default), in evaluation mode.

        Raises:
            StoreError: no such model, or it was not trained.
        """
        return load_state(self.folder, self._model(model), self._spec())

    def test(self, model: str | None = None) -> dict[str, float]:
        """The metrics of `model` (the best by default) on the test split; each look is noted in the log.

        Raises:
            DataError: the dataset has no test split.
        """
        from cerebro.session.sealed import sealed_metrics

        return sealed_metrics(self.folder, self._model(model), self._spec())

    def replay(self, model: str | None = None) -> Replay:
        """Train `model` (the best by default) again, alone, from its lineage, and compare every unit."""
        return replay(self.folder, self._model(model), self._spec())

    def lineage(self, model: str | None = None) -> ModelLineage:
        """Where `model` (the best by default) comes from; prints as a table of its units."""
        return lineage(self.folder, self._model(model))

    def diff(self, model: str, other: str) -> Diff:
        """What differs between two models; `comparable` says whether their metrics may be compared."""
        return diff(self.lineage(model), self.lineage(other))

    def retry(self, model: str) -> Retry:
        """Let the next `fit` train a failed or diverged `model` anew, under the code as it is now.

        Raises:
            StoreError: it did not fail, or more than code is declared otherwise.
        """
        return retry(self.folder, model, self._spec())

    def export(self, model: str | None, destination: Any) -> Any:
        """Write `model` (the best if None) to a folder that `cerebro.load` reads; gives the folder."""
        return export(self.folder, self._model(model), destination, self._spec)

    def _model(self, model: str | None) -> str:
        return model if model is not None else self.best["model"]

    def _spec(self) -> ExperimentSpec:
        if self.spec is None:
            raise SpecError("this result was opened without its experiment: use experiment.result()")
        return self.spec
