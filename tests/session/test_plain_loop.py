"""A model trained through Cerebro has the bits of a plain PyTorch loop over the same batches."""

import numpy as np
import pytest
import torch

import cerebro
from cerebro.plan.order import visit_orders
from cerebro.streams import permutation
from cerebro.training.randomness import set_generators
from tests.nets import BUILDS

EPOCHS, SHARDS, SEED = 2, 4, 7


def plain_loop(build, config, dataset):
    """What anybody would write: a model, an optimizer, epochs, shards, batches."""
    set_generators((SEED, "init", 0))
    learner = build(config)
    optimizer = learner.optimizer(learner.module.parameters(), fused=True)
    schedule = learner.schedule(optimizer) if learner.schedule else None
    for epoch, order in enumerate(visit_orders("same", SEED, EPOCHS, SHARDS, 0), start=1):
        for shard in order:
            columns = dataset.shard("train", shard).columns
            rows = torch.from_numpy(permutation(len(columns["label"]), (SEED, "rows", 0, epoch, shard)))
            set_generators((SEED, "noise", 0, "train", epoch, shard))
            for part in rows.split(learner.batch_size):
                batch = {name: torch.from_numpy(np.array(column))[part] for name, column in columns.items()}
                optimizer.zero_grad()
                learner.loss(learner.module, batch).backward()
                if learner.clip_norm:
                    torch.nn.utils.clip_grad_norm_(learner.module.parameters(), learner.clip_norm)
                optimizer.step()
                if schedule:
                    schedule.step()
    return learner.module.state_dict()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("net", BUILDS)
def test_four_shards_give_the_bits_of_a_plain_loop(net, shards, tmp_path):
    experiment = cerebro.Experiment(
        "plain", data=shards, build=BUILDS[net], search=cerebro.Grid({"lr": [0.01]}), epochs=EPOCHS, metric="loss",
        mode="min", seed=SEED,
    )  # fmt: skip
    result = experiment.fit(engine="local", workers=2, store=tmp_path, progress=False)
    expected = plain_loop(BUILDS[net], {"lr": 0.01}, cerebro.open(shards))
    trained = result.load("m001").state_dict()
    assert trained.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(trained[name], expected[name])] == []
