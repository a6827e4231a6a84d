"""Transfer learning as model selection: the shared work is done once, and no way of doing it changes a bit."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cerebro
from cerebro.errors import ModelError
from cerebro.plan.features import Features
from cerebro.plan.order import visit_orders
from cerebro.streams import permutation
from cerebro.training.frozen import CANONICAL_ROWS
from cerebro.training.randomness import set_generators
from tests.frozen_nets import build_transfer
from tests.nets import signals

SEED, EPOCHS, SHARDS = 3, 2, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two train shards of 300 rows each: one full canonical batch, and one that is not."""
    destination = tmp_path_factory.mktemp("data") / "long.shards"
    cerebro.ingest(signals(750), destination, shards=SHARDS, label="label", split=(0.8, 0.2, 0.0))
    return destination


@pytest.fixture(scope="module")
def declared(data):
    space = {"width": [8, 6], "lr": [0.01, 0.003]}
    return cerebro.Experiment(
        "transfer", data=data, build=build_transfer, search=cerebro.Grid(space), epochs=EPOCHS, metric="accuracy",
        mode="max", seed=SEED,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(declared, tmp_path_factory):
    return declared.fit(engine="inline", store=tmp_path_factory.mktemp("store"), features="recompute", progress=False)


def digests(result) -> dict[str, str]:
    return {row["model"]: row["state_digest"] for row in result.leaderboard()}


def files(store):
    return sorted((store / ".features").glob("*.features"))


@pytest.mark.parametrize("mode", ["auto", "share", "materialize", "recompute"])
def test_how_columns_are_come_by_changes_no_bit(declared, result, mode, tmp_path):
    found = declared.fit(workers=2, store=tmp_path, features=mode, progress=False)
    assert digests(found) == digests(result)
    assert len(files(tmp_path)) == {"materialize": SHARDS + 1, "share": 0, "recompute": 0}.get(
        mode, len(files(tmp_path))
    )


def test_columns_are_used_again_by_other_workers_and_experiments(declared, result, tmp_path):
    declared.fit(workers=1, store=tmp_path, features="materialize", progress=False)
    written = {file: file.stat().st_ino for file in files(tmp_path)}
    again = replace(declared, name="again").fit(workers=2, store=tmp_path, features="materialize", progress=False)
    assert digests(again) == digests(result)
    assert {file: file.stat().st_ino for file in files(tmp_path)} == written
    assert len(written) == SHARDS + 1  # the valid split is one shard


def test_a_damaged_column_is_computed_again(declared, result, tmp_path):
    declared.fit(workers=1, store=tmp_path, features="materialize", progress=False)
    before = {file: file.read_bytes() for file in files(tmp_path)}
    for file, content in before.items():
        file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    again = replace(declared, name="again").fit(workers=1, store=tmp_path, features="materialize", progress=False)
    assert digests(again) == digests(result)
    assert {file: file.read_bytes() for file in files(tmp_path)} == before


def test_the_store_stays_within_its_budget(declared, result, tmp_path):
    whole = declared.fit(workers=1, store=tmp_path / "whole", features="materialize", progress=False)
    sizes = [file.stat().st_size for file in files(tmp_path / "whole")]
    budget = sum(sizes) - 1
    part = declared.fit(
        workers=2, store=tmp_path / "part", features=Features("materialize", budget_bytes=budget), progress=False
    )
    assert digests(whole) == digests(part) == digests(result)
    assert 0 < sum(file.stat().st_size for file in files(tmp_path / "part")) <= budget


def test_a_model_has_the_bits_of_a_plain_loop_over_precomputed_features(declared, result, data):
    """What anybody would write who computes features first, in batches of 256 rows in the order of the shard."""
    dataset = cerebro.open(data)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        set_generators((SEED, "init", 0))
        module = build_transfer({"width": 8}).module
        optimizer = torch.optim.AdamW(module.head.parameters(), lr=0.01, fused=True)
        module.backbone.eval()
        for epoch, order in enumerate(visit_orders("same", SEED, EPOCHS, SHARDS, 0), start=1):
            for shard in order:
                columns = {n: torch.from_numpy(np.array(c)) for n, c in dataset.shard("train", shard).columns.items()}
                with torch.no_grad():
                    features = torch.cat([module.backbone(rows) for rows in columns["signal"].split(CANONICAL_ROWS)])
                rows = torch.from_numpy(permutation(len(features), (SEED, "rows", 0, epoch, shard)))
                set_generators((SEED, "noise", 0, "train", epoch, shard))
                for part in rows.split(32):
                    optimizer.zero_grad()
                    F.cross_entropy(module.head(features[part]), columns["label"][part]).backward()
                    optimizer.step()
    finally:
        torch.set_num_threads(before)
    model = next(row["model"] for row in result.leaderboard() if row["config"] == {"width": 8, "lr": 0.01})
    trained = result.load(model).state_dict()
    assert [name for name, tensor in module.state_dict().items() if not torch.equal(trained[name], tensor)] == []


def test_a_model_that_is_loaded_or_exported_is_whole(result, tmp_path):
    best = result.best
    loaded = result.load()
    result.export(None, tmp_path / "exported")
    exported = cerebro.load(tmp_path / "exported", build_transfer)
    assert loaded.state_dict().keys() == exported.state_dict().keys()
    assert all(torch.equal(tensor, exported.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    valid = cerebro.open(result.spec.data).shard("valid", 0).columns
    with torch.no_grad():
        output = loaded(torch.from_numpy(np.array(valid["signal"]))).argmax(dim=1).numpy()
    assert (output == valid["label"]).mean() == pytest.approx(best["metrics"]["valid"]["accuracy"])


def test_a_model_with_a_frozen_part_is_replayed(result):
    assert result.replay("m002").identical


def test_a_clone_starts_from_the_trained_part(declared, tmp_path):
    single = replace(declared, search=cerebro.Grid({"width": [8], "lr": [0.01]}))
    single.fit(workers=1, store=tmp_path, progress=False)
    cerebro.connect("transfer", store=tmp_path).clone("m001", warm=True, lr=0.001)
    done = single.fit(workers=1, store=tmp_path, progress=False)
    assert digests(done).keys() == {"m001", "m002"}
    assert done.replay("m002").identical


def build_by_name(config):
    """As `build_transfer`; a config can say in one word what is frozen."""
    return build_transfer(
        {**config, "freeze": {"backbone": ["backbone"], "some": ["backbone.0", "backbone.1"]}[config["frozen"]]}
    )


def test_a_clone_can_unfreeze_but_not_freeze_what_was_trained(declared, tmp_path):
    single = replace(
        declared, build=build_by_name, search=cerebro.Grid({"frozen": ["backbone"], "lr": [0.01]}), source=None
    )
    handle = single.start(workers=1, store=tmp_path, progress=False)
    handle.wait()
    assert handle.clone("m001", warm=True, optimizer="reset", frozen="some").accepted
    done = single.fit(workers=1, store=tmp_path, progress=False)
    assert done.replay("m002").identical
    assert not torch.equal(done.load("m001").backbone[4].weight, done.load("m002").backbone[4].weight)
    with pytest.raises(ModelError, match=r"the clone would freeze backbone\.4\.bias, which the ancestor has trained"):
        single.start(workers=1, store=tmp_path, progress=False).clone("m002", warm=True, frozen="backbone")


def test_a_plan_says_what_is_shared(declared, result, tmp_path):
    text = declared.explain(engine="inline", store=tmp_path, features="materialize")
    line = next(line for line in text.splitlines() if "Materialize" in line)
    assert "Materialize  backbone (560 B a row) for 4 models, 410.2 KiB stored; else computed 8×" in line
    with closing(result.folder.reader()) as reader:
        assert "Recompute  backbone (560 B a row) for 4 models" in reader.experiment()["plan"]["text"]
