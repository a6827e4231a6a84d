"""Bad input gets a clear error before work starts, and leaves the store as it was."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cerebro
from cerebro.cli import app
from tests.nets import build_mlp, cross_entropy, mlp

GRID = cerebro.Grid({"lr": [0.01]})


def declared(shards: Path, **changes: Any) -> cerebro.Experiment:
    fields = {"data": shards, "build": build_mlp, "search": GRID, "epochs": 1, "metric": "accuracy", "mode": "max"}
    return cerebro.Experiment(**{"name": "bad", **fields, **changes})


def learner(**changes: Any) -> cerebro.Learner:
    fields = {"module": mlp(), "loss": cross_entropy, "optimizer": partial(torch.optim.AdamW, lr=0.1), "batch_size": 8}
    return cerebro.Learner(**{**fields, **changes})


def built(**changes: Any) -> Any:
    """A build function whose learner is wrong."""
    return lambda config: learner(**changes)


class NotAMetric:
    def __repr__(self) -> str:
        return "NotAMetric()"


DECLARATIONS = {
    "a name with capitals": (
        {"name": "My Run"},
        "Experiment.name: 'My Run' is not a name: use 1 to 64 of the characters a-z, 0-9 and '-'",
    ),
    "a precision of another name": (
        {"precision": "half"},
        "Experiment.precision: 'half' is not one of float32, bf16",
    ),
    "an exactness that is a word": (
        {"exact": "no"},
        "Experiment.exact: 'no' is not True or False",
    ),
    "a name that is a path": (
        {"name": "../x"},
        "Experiment.name: '../x' is not a name: use 1 to 64 of the characters a-z, 0-9 and '-'",
    ),
    "data that are not a path": (
        {"data": 3},
        "Experiment.data: 3 is not a path; give the folder that ingest made",
    ),
    "a build that is no function": (
        {"build": "build"},
        "Experiment.build: 'build' cannot be called; give a function of a config",
    ),
    "a search that is a bare dict": (
        {"search": {"lr": [1]}},
        "Experiment.search: {'lr': [1]} is not a search; give for example Grid({...})",
    ),
    "no epochs": ({"epochs": 0}, "Experiment.epochs: 0 is not a whole number of at least 1"),
    "half an epoch": ({"epochs": 0.5}, "Experiment.epochs: 0.5 is not a whole number of at least 1"),
    "a negative seed": ({"seed": -1}, "Experiment.seed: -1 is not a whole number of at least 0"),
    "an unknown mode": ({"mode": "best"}, "Experiment.mode: 'best' is not one of max, min"),
    "an unknown order": ({"order": "random"}, "Experiment.order: 'random' is not one of same, latin, free"),
    "no metric": ({"metric": ""}, "Experiment.metric: '' is not the name of a metric, such as 'accuracy'"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_wrong_declaration_is_refused_when_it_is_made(name, shards):
    changes, message = DECLARATIONS[name]
    with pytest.raises(cerebro.SpecError) as raised:
        declared(shards, **changes)
    assert str(raised.value) == message


VALUES = {
    "an empty grid": (
        lambda: cerebro.Grid({}),
        "search: {} is not a space: give a non-empty dict of names and values",
    ),
    "an empty list": (
        lambda: cerebro.Grid({"lr": []}),
        "search['lr']: the list is empty: give at least one value",
    ),
    "a continuous dimension in a grid": (
        lambda: cerebro.Grid({"lr": cerebro.loguniform(1e-4, 1e-1)}),
        "search['lr']: Grid needs a list of values, not LogUniform(low=0.0001, high=0.1): write the values out",
    ),
    "a config twice": (
        lambda: cerebro.Grid({"lr": [1, 1]}),
        "search: the config {'lr': 1} comes twice: remove the repeated value",
    ),
    "a class in a config": (
        lambda: cerebro.Grid({"net": [dict]}),
        "search['net']: <class 'dict'> is a type; a config holds numbers, strings, booleans, None, lists and dicts "
        "(give the name of a class or function, and look it up in build)",
    ),
    "a NaN in a config": (lambda: cerebro.Grid({"lr": [math.nan]}), "search['lr']: nan is not finite"),
    "bounds the wrong way round": (
        lambda: cerebro.uniform(2, 1),
        "uniform: low is 2 and high is 1; low must be the smaller",
    ),
    "a logarithm of zero": (
        lambda: cerebro.loguniform(0, 1),
        "loguniform: low is 0, and a logarithm needs more than 0",
    ),
    "a fractional randint": (
        lambda: cerebro.randint(0, 2.5),
        "randint: 0 and 2.5 must both be integers; use uniform for floats",
    ),
    "an optimizer already built": (
        lambda: learner(optimizer=torch.optim.SGD(mlp().parameters(), lr=0.1)),
        "Learner.optimizer: got an optimizer that is already built; "
        "give a factory such as partial(torch.optim.AdamW, lr=1e-3)",
    ),
    "a module that is none": (
        lambda: learner(module="net"),
        "Learner.module: 'net' (str) is not a torch.nn.Module",
    ),
    "a batch of nothing": (
        lambda: learner(batch_size=0),
        "Learner.batch_size: 0 is not a whole number of at least 1",
    ),
    "a metric called loss": (
        lambda: learner(metrics={"loss": cerebro.metrics.accuracy("label")}),
        "Learner.metrics: 'loss' is always measured; choose another name",
    ),
    "a metric that is none": (
        lambda: learner(metrics={"f1": NotAMetric()}),
        "Learner.metrics['f1']: NotAMetric() (NotAMetric) is not a metric; use cerebro.metrics.accuracy(...), another "
        "of cerebro.metrics, or a torchmetrics object",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_value_is_refused_when_it_is_made(name):
    make, message = VALUES[name]
    with pytest.raises(cerebro.SpecError) as raised:
        make()
    assert str(raised.value) == message


RUNS = {
    "no such dataset": (
        lambda e: replace(e, data="nowhere.shards"),
        {},
        "nowhere.shards does not exist; make one with `cerebro ingest SOURCE nowhere.shards`",
    ),
    "a metric that nothing measures": (
        lambda e: replace(e, metric="acuracy"),
        {},
        "Experiment.metric: 'acuracy' is not measured by m001; its Learner has loss, accuracy",
    ),
    "a metric of the sealed split": (
        lambda e: replace(e, metric="test.accuracy"),
        {},
        "Experiment.metric: 'test.accuracy' is not measured while training; "
        "name a metric such as 'accuracy' (on the valid split) or 'train.accuracy'",
    ),
    "no workers": (lambda e: e, {"workers": 0}, "workers: 0 is not a whole number of at least 1"),
    "an unknown engine": (lambda e: e, {"engine": "spark"}, "engine: 'spark' is not one of local, inline"),
    "an unknown policy": (
        lambda e: e,
        {"policy": "fifo"},
        "policy: 'fifo' is not one of longest-remaining, shared-scan, random",
    ),
    "a size that is none": (
        lambda e: e,
        {"shard_memory": "much"},
        "shard_memory: 'much' is not a size such as '2GB', '512MiB', or a number of bytes",
    ),
    "an unknown device": (lambda e: e, {"device": "tpu"}, "device: 'tpu' is not one of auto, cpu, cuda"),
    "a build that gives something else": (
        lambda e: replace(e, build=lambda config: 3),
        {},
        "no config can be trained; the first says: ModelError: build: gave int; it must return a cerebro.Learner",
    ),
    "a build that fails": (
        lambda e: replace(e, build=lambda config: config["width"]),
        {},
        "no config can be trained; the first says: KeyError: 'width'",
    ),
    "a loss that is not a scalar": (
        lambda e: replace(e, build=built(loss=lambda module, batch: module(batch["signal"]))),
        {},
        "no config can be trained; the first says: ModelError: Learner.loss: gave a tensor of shape (8, 4); "
        "it must give a scalar tensor, the mean over the batch",
    ),
    "a column that is not there": (
        lambda e: replace(e, build=built(loss=lambda module, batch: batch["acceleration"])),
        {},
        "no config can be trained; the first says: ModelError: batch['acceleration']: the dataset has no such column; "
        "it has signal, label, subject",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_cannot_run_is_refused_and_leaves_no_store(name, shards, tmp_path):
    change, means, message = RUNS[name]
    store = tmp_path / "store"
    with pytest.raises(cerebro.CerebroError) as raised:
        change(declared(shards)).fit(**{"engine": "inline", "store": store, "progress": False, **means})
    assert str(raised.value).splitlines()[0] == message
    assert not store.exists()


def test_another_declaration_of_the_same_name_is_refused_by_its_first_difference(shards, tmp_path):
    declared(shards).fit(engine="inline", store=tmp_path, progress=False)
    before = contents(tmp_path)
    with pytest.raises(cerebro.StoreError) as raised:
        declared(shards, epochs=2).fit(engine="inline", store=tmp_path, progress=False)
    assert str(raised.value) == (
        "experiment 'bad' exists with another declaration: epochs was 1, now it is 2. Give this one another name, "
        f"undo the change, or delete {tmp_path / 'bad'} to begin anew"
    )
    assert contents(tmp_path) == before


COMMANDS = {
    "leaderboard of nothing": (
        ["leaderboard", "nothing"],
        "no experiment 'nothing' in the store {store}; there are: bad",
    ),
    "events of nothing": (["events", "nothing"], "no experiment 'nothing' in the store {store}; there are: bad"),
    "top of a path": (
        ["top", "../bad"],
        "name: '../bad' is not a name: use 1 to 64 of the characters a-z, 0-9 and '-'",
    ),
    "replay of no model": (
        ["replay", "bad", "m999", "--file", "{file}"],
        "experiment 'bad' has no model 'm999'; it has m001 to m001",
    ),
    "export of no model": (
        ["export", "bad", "m999", "{store}/out"],
        "experiment 'bad' has no model 'm999'; it has m001 to m001",
    ),
    "export onto a folder": (
        ["export", "bad", "m001", "{store}/bad"],
        "{store}/bad exists: give a folder that does not",
    ),
    "run of no file": (
        ["run", "nothing.py"],
        "nothing.py is not a file; give a Python file that defines `experiment = cerebro.Experiment(...)`",
    ),
    "run of a file without an experiment": (
        ["run", "{empty}"],
        "{empty} must define `experiment = cerebro.Experiment(...)`; it has nothing of that name",
    ),
    "ingest with two shares": (
        ["ingest", "x.csv", "{store}/x.shards", "--split", "0.5,0.5"],
        "--split 0.5,0.5: give three numbers with commas between, such as 0.7,0.15,0.15",
    ),
    "ingest of nothing": (["ingest", "nothing.csv", "{store}/x.shards"], "source: nothing.csv does not exist"),
}

FILE = """
import cerebro
from tests.nets import build_mlp
search = cerebro.Grid({{"lr": [0.01]}})
experiment = cerebro.Experiment(
    "bad", data={data!r}, build=build_mlp, search=search, epochs=1, metric="accuracy", mode="max"
)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_says_why_and_changes_nothing(name, shards, tmp_path, monkeypatch):
    store, file, empty = tmp_path / "store", tmp_path / f"declares_{abs(hash(name))}.py", tmp_path / "empty_file.py"
    file.write_text(FILE.format(data=str(shards)))
    empty.write_text("")
    declared(shards).fit(engine="inline", store=store, progress=False)
    monkeypatch.setenv("CEREBRO_STORE", str(store))
    before = contents(store)
    places = {"store": store, "file": file, "empty": empty}
    command, message = COMMANDS[name]
    ran = CliRunner().invoke(app, [part.format(**places) for part in command])
    assert str(ran.exception) == message.format(**places)
    assert isinstance(ran.exception, cerebro.CerebroError)
    assert contents(store) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store; the -shm index that readers of SQLite share is not content."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
