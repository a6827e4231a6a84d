"""How much faster are K models of one architecture trained in one pass than one after another?

Alone is Cerebro's own kernel (zero-copy slices, one thread, fused AdamW, the same metrics), not a straw man. Before
anything is timed, the bits of both are compared. Below 1.0 the planner is to leave the models alone.
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
)


def measure(case: Case, rounds: int, batches: int) -> dict[str, list[float]]:
    """Seconds of a visit of all members, alone and fused."""
    columns, alone, group = case.columns(batches), case.lives(), case.lives()

    def one_by_one() -> None:
        for live in alone:
            train_visit(live, columns, None)

    def in_one_pass() -> None:
        fused_train_visit(group, columns, None)

    one_by_one(), in_one_pass()
    states = [[live.state.to_bytes() for live in lives] for lives in (alone, group)]
    assert states[0] == states[1], f"{case.name}: fused models have other bits"
    return interleaved({"alone": lambda: timed(one_by_one), "fused": lambda: timed(in_one_pass)}, rounds)


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 7, "rounds"))
    one_thread()
    table, figures = [], {}
    for case in CASES:
        batches = min(case.batches, 8) if options.quick else case.batches
        seconds = measure(case, 2 if options.quick else options.rounds, batches)
        alone, fused = (1e3 * float(np.median(seconds[who])) / batches / case.members for who in ("alone", "fused"))
        figures[f"{case.name}_speedup"] = median_ratio(seconds["alone"], seconds["fused"])
        table.append((case.name, case.members, case.batch_size, alone, fused, figures[f"{case.name}_speedup"]))
    print_table("one pass", ["models", "K", "batch", "alone ms", "fused ms", "×"], table)
    print_figures("fused_kernels", figures)


if __name__ == "__main__":
    main()
