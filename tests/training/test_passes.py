"""What a worker knows of models that go together."""

import pytest

from cerebro.messages import Unit
from cerebro.plan.program import Member, Program
from cerebro.training import trainer as module
from cerebro.training.trainer import Trainer
from tests.nets import build_mlp

MODELS = ("m001", "m002", "m003")


@pytest.fixture
def compared(monkeypatch):
    """The number of models at each time that models were compared."""
    found, compare = [], module.why_not_together

    def noted(lives):
        found.append(len(lives))
        return compare(lives)

    monkeypatch.setattr(module, "why_not_together", noted)
    return found


def test_models_are_compared_again_only_where_one_was_alone_in_between(shards, compared):
    rates = dict(zip(MODELS, (0.001, 0.01, 0.03), strict=True))
    trainer = Trainer(Program(build_mlp, shards, 0, {m: Member({"lr": lr}) for m, lr in rates.items()}), "cpu")
    states = dict[str, memoryview | None].fromkeys(MODELS)

    def visit(shard, *models):
        units = [Unit(model, "train", 1, shard, shard) for model in models]
        parents = [states[model] for model in models]
        if len(models) > 1:
            assert trainer.visit_together(units, parents) is not None
        else:
            trainer.visit(units[0], parents[0])
        states.update({model: memoryview(trainer.state(model)) for model in models})

    visit(0, *MODELS)
    visit(1, *MODELS)
    visit(2, *MODELS[:2])
    assert compared == [3]
    visit(2, "m003")
    visit(3, *MODELS)
    visit(0, *MODELS)
    assert compared == [3, 3]
