"""Learning curves that benches replay: 200 small nets on scikit-learn's digits, each trained once to the end.

`python benches/curves/record.py` trains them through Cerebro itself and writes `digits.json` beside this file;
`read()` gives them back. Kept of each model: its config, the loss and the accuracy on the valid split after each epoch,
and the mean seconds of its units.
"""

import json
import platform
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("digits.json")
MODELS, EPOCHS = 200, 27
TRAIN_SHARDS = 2
SPLIT = (0.5, 0.5, 0.0)
"""Half of the rows validate: 900 of them, so that few models are equal."""
DIGITS_KEPT = 5


@dataclass(frozen=True)
class Curve:
    """One recorded model."""

    config: Mapping[str, Any]
    loss: tuple[float | None, ...]
    """After each epoch; None from where it had diverged."""
    accuracy: tuple[float | None, ...]
    train_seconds: float
    """Of one visit of a train shard."""
    valid_seconds: float


def space() -> dict[str, Any]:
    """From where no net learns anything to where some diverge."""
    import cerebro

    return {
        "lr": cerebro.loguniform(1e-4, 1.0),
        "l2": cerebro.loguniform(1e-6, 1.0),
        "dropout": cerebro.uniform(0.0, 0.8),
        "width": cerebro.randint(8, 257, log=True),
        "layers": [1, 2, 3],
        "batch": [16, 32, 64, 128],
    }


def read() -> tuple[Curve, ...]:
    """The recorded curves, `m001` first."""
    models = json.loads(FILE.read_text())["models"]
    return tuple(Curve(**{name: _frozen(value) for name, value in model.items()}) for model in models)


def build(config):
    import torch
    import torch.nn.functional as F
    from torch import nn

    import cerebro

    sizes = [64] + [config["width"]] * config["layers"]
    hidden = [
        layer
        for before, after in pairwise(sizes)
        for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(config["dropout"]))
    ]
    return cerebro.Learner(
        module=nn.Sequential(*hidden, nn.Linear(sizes[-1], 10)),
        loss=lambda module, batch: F.cross_entropy(module(batch["pixels"]), batch["digit"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config["l2"]),
        batch_size=config["batch"],
        metrics={"accuracy": cerebro.metrics.accuracy("digit")},
    )


def record() -> None:
    """Train all models, and write the file."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    import cerebro

    digits = load_digits()
    columns = {"pixels": (digits.data / 16).astype(np.float32), "digit": digits.target}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "digits.shards"
        cerebro.ingest(columns, data, shards=TRAIN_SHARDS, label="digit", split=SPLIT, seed=0)
        experiment = cerebro.Experiment(
            "digits",
            data=data,
            build=build,
            search=cerebro.Random(space(), models=MODELS),
            epochs=EPOCHS,
            metric="loss",
            mode="min",
        )
        result = experiment.fit(workers=2, store=Path(name) / "store")
        models = _models(result)
    made = {
        "how": "python benches/curves/record.py",
        "data": f"scikit-learn's digits, split {SPLIT}, {TRAIN_SHARDS} train shards",
        "search": f"Random, {MODELS} models, seed 0, {EPOCHS} epochs; 2 local workers",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    lines = ",\n".join(json.dumps(model, separators=(",", ":")) for model in models)
    FILE.write_text(f'{{"made":{json.dumps(made, indent=1)},\n"models":[\n{lines}\n]}}\n')


def _models(result: Any) -> list[dict[str, Any]]:
    with closing(result.folder.reader()) as reader:
        values = {(row["model"], row["epoch"], row["split"], row["name"]): row["value"] for row in reader.metrics()}
        seconds = defaultdict[tuple[str, str], list[float]](list)
        for row in reader.units():
            seconds[row.unit.model, row.unit.kind].append(row.seconds)
    return [
        {
            "config": {name: _short(value) for name, value in row["config"].items()},
            **{
                name: [_short(values.get((row["model"], epoch, "valid", name))) for epoch in range(1, EPOCHS + 1)]
                for name in ("loss", "accuracy")
            },
            **{f"{kind}_seconds": _short(statistics.fmean(seconds[row["model"], kind])) for kind in ("train", "valid")},
        }
        for row in sorted(result.leaderboard(), key=lambda row: row["model"])
    ]


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS_KEPT}g}") if isinstance(value, float) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    record()
