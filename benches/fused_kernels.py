"""How much faster are K models of one architecture trained in one pass than one after another?

Alone is Cerebro's own kernel (zero-copy slices, one thread, fused AdamW, the same metrics), not a straw man. Before
anything is timed, the bits of both are compared. Below 1.0 the planner is to leave the models alone. Stacked passes may
have other bits (`exact=False`); the last column says how far the parameters are from those of models trained alone,
after one visit. `channels_last` is the model by itself with its channels last, for nets with 2-D convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, interleaved, median_ratio, print_figures, print_table, timed
from torch import nn

import cerebro
from cerebro.training.devices import one_thread
from cerebro.training.fused import fused_train_visit
from cerebro.training.learners import build_learner
from cerebro.training.rewrites import deviation, parameters
from cerebro.training.train import train_visit

FEATURES, CHANNELS, STEPS, CLASSES = 39, 3, 100, 7


class ConvLSTM(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(CHANNELS, channels, 5, padding=2), nn.MaxPool1d(4)
        self.lstm, self.classify = nn.LSTM(channels, width, batch_first=True), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.pool(F.relu(self.conv(x)))
        return self.classify(self.lstm(features.transpose(1, 2))[0][:, -1])


def cnn(before: int, after: int) -> nn.Module:
    """Two 2-D convolutions with a maximum over 2 × 2 after each, on images of 16 × 16."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, before, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * after, CLASSES),
    )  # fmt: skip


def mlp(*hidden: int) -> nn.Module:
    before, after = hidden
    return nn.Sequential(
        nn.Linear(FEATURES, before), nn.ReLU(), nn.Linear(before, after), nn.ReLU(), nn.Linear(after, CLASSES)
    )


@dataclass(frozen=True)
class Case:
    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    members: int
    batches: int

    def lives(self) -> list:
        def build(config):
            return cerebro.Learner(
                module=self.net(),
                loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["y"]),
                optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
                batch_size=self.batch_size,
                metrics={"accuracy": cerebro.metrics.accuracy("y")},
            )

        rates = [1e-3 * (1 + k) for k in range(self.members)]
        return [build_learner(build, {"lr": lr}, ("init", 0), "y", torch.device("cpu")) for lr in rates]

    def columns(self, batches: int) -> dict[str, np.ndarray]:
        random = np.random.RandomState(0)
        count = batches * self.batch_size
        return {
            "x": random.randn(count, *self.shape).astype(np.float32),
            "y": random.randint(0, CLASSES, count),
        }


CASES = (
    Case("mlp_32", partial(mlp, 32, 16), (FEATURES,), 32, 64, 64),
    Case("mlp_128", partial(mlp, 128, 64), (FEATURES,), 64, 16, 64),
    Case("convlstm_8", partial(ConvLSTM, 8, 16), (CHANNELS, STEPS), 16, 8, 40),
    Case("mlp_1000", partial(mlp, 1000, 500), (FEATURES,), 256, 16, 4),
    Case("convlstm_32", partial(ConvLSTM, 32, 64), (CHANNELS, STEPS), 64, 8, 8),
    Case("cnn_8", partial(cnn, 8, 16), (CHANNELS, 16, 16), 32, 8, 16),
    Case("cnn_32", partial(cnn, 32, 64), (CHANNELS, 16, 16), 64, 8, 3),
)


@dataclass(frozen=True)
class Measured:
    """Seconds of a visit of all members in each way, by round, and how far off inexact ways are after the first."""

    seconds: dict[str, list[float]]
    deviations: dict[str, float]


def measure(case: Case, rounds: int, batches: int) -> Measured:
    columns = case.columns(batches)
    ways = {
        "alone": partial(one_by_one, case.lives(), columns),
        "fused": partial(fused_train_visit, case.lives(), columns, None),
        "stacked": partial(fused_train_visit, case.lives(), columns, None, exact=False),
    }
    if case.name.startswith("cnn"):
        last = case.lives()
        for live in last:
            live.state.channels_last()
        ways["channels_last"] = partial(one_by_one, last, columns)
    for visit in ways.values():
        visit()
    lives = {way: visit.args[0] for way, visit in ways.items()}
    states = [[live.state.to_bytes() for live in lives[way]] for way in ("alone", "fused")]
    assert states[0] == states[1], f"{case.name}: fused models have other bits"
    deviations = {way: furthest(lives[way], lives["alone"]) for way in ways if way not in ("alone", "fused")}
    return Measured(interleaved({way: partial(timed, visit) for way, visit in ways.items()}, rounds), deviations)


def one_by_one(lives: list, columns: dict[str, np.ndarray]) -> None:
    for live in lives:
        train_visit(live, columns, None)


def furthest(found: list, expected: list) -> float:
    pairs = zip(map(parameters, found), map(parameters, expected), strict=True)
    return max(deviation(*pair) for pair in pairs)


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 7, "rounds"))
    one_thread()
    table, figures = [], {}
    for case in CASES:
        batches = min(case.batches, 8) if options.quick else case.batches
        found = measure(case, 2 if options.quick else options.rounds, batches)
        for way, seconds in found.seconds.items():
            each_ms = 1e3 * float(np.median(seconds)) / batches / case.members
            gain = median_ratio(found.seconds["alone"], seconds)
            if way != "alone":
                figures[f"{case.name}_{'speedup' if way == 'fused' else way}"] = gain
            far = f"{found.deviations[way]:.0e}" if way in found.deviations else "none"
            table.append((case.name, case.members, case.batch_size, way, each_ms, gain, far))
    print_table("one pass", ["models", "K", "batch", "way", "ms", "×", "deviation"], table)
    print_figures("fused_kernels", figures)


if __name__ == "__main__":
    main()
