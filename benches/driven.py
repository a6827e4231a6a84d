"""An experiment in a file, for benches whose drivers are processes of their own that are killed."""

from pathlib import Path

_EXPERIMENT = """
from functools import partial
from pathlib import Path
import torch
import torch.nn.functional as F
import cerebro

def build(config):
    return cerebro.Learner(
        module=torch.nn.Sequential(
            torch.nn.Linear(32, config["width"]), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Linear(config["width"], 4),
        ),
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size={batch_size},
        metrics={{"accuracy": cerebro.metrics.accuracy("label")}},
    )

experiment = cerebro.Experiment(
    {name!r}, data=Path({data!r}), build=build, search={search}, epochs={epochs}, metric="accuracy", mode="max",
)
"""


def write_experiment(file: Path, name: str, data: Path, search: str, *, epochs: int, batch_size: int) -> Path:
    """Write a file that declares small nets of some `width` and `lr`; `search` is an expression. Gives the file."""
    text = _EXPERIMENT.format(name=name, data=str(data), search=search, epochs=epochs, batch_size=batch_size)
    file.write_text(text)
    return file
