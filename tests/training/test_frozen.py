"""What is frozen: what of it is derived, what a state holds, and what is refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cerebro
from cerebro.errors import ModelError, SpecError
from cerebro.messages import Unit
from cerebro.plan.features import Features
from cerebro.plan.program import Member, Program
from cerebro.training.frozen import freeze
from cerebro.training.identity import identity_of
from cerebro.training.randomness import set_generators
from cerebro.training.state import read_tensors
from cerebro.training.trainer import Trainer
from tests.frozen_nets import TOWERS, Noisy, Transfer, build_transfer, build_uses, build_viewed, learner

pytestmark = pytest.mark.usefixtures("as_workers")

INLINE = {
    "after_trained": "what goes into first is trained",
    "after_detached": "is not the same twice: it is random, or trained",
    "counted": "is not the same twice: it is random, or trained",
    "random": "is not the same twice: it is random, or trained",
    "twice": "first is called 2 times in a batch",
    "never": "backbone is called 0 times in a batch",
    "by_batch": "depends on the other rows of the batch",
    "unused": "nothing depends on what",
}
"""Ways of use that cannot be derived, and why."""


def trainer_of(build, shards: Path, config, features=None) -> Trainer:
    trainer = Trainer(Program(build, shards, 0, {"m001": Member(config)}), "cpu")
    trainer.prefer(features or Features())
    return trainer


def state_after(trainer: Trainer, visits: int = 2) -> bytes:
    state = None
    for position in range(visits):
        trainer.visit(Unit("m001", "train", 1, position, position), None if state is None else memoryview(state))
        state = trainer.state("m001")
    return state


def trace_of(trainer: Trainer):
    return trainer._learners["m001"].frozen.trace


@pytest.mark.parametrize("way", ["plain", "scaled"])
def test_of_a_chain_only_the_last_output_is_a_column(shards, way):
    trainer = trainer_of(build_uses, shards, {"way": way})
    state_after(trainer, 1)
    assert (trace_of(trainer).needed, trace_of(trainer).reason) == ((("backbone", 0),), "")


@pytest.mark.parametrize(("names", "needed"), [(["0", "1"], "1"), (["0"], "0"), (["1", "0", "2"], "2")])
def test_a_frozen_beginning_of_a_sequence_gives_one_column(shards, names, needed):
    def build(config):
        net = nn.Sequential(nn.Flatten(), nn.Linear(60, 9), nn.ReLU(), nn.Linear(9, 4))
        return learner(net, config, freeze=names)

    trainer = trainer_of(build, shards, {})
    state_after(trainer, 1)
    assert (trace_of(trainer).needed, trace_of(trainer).reason) == (((needed, 0),), "")


@pytest.mark.parametrize("way", TOWERS)
def test_two_towers_give_two_columns(shards, way):
    trainer = trainer_of(build_uses, shards, {"way": way})
    state_after(trainer, 1)
    assert trace_of(trainer).needed == (("backbone", 0), ("other", 0))


@pytest.mark.parametrize("way", ["plain", "scaled", *TOWERS])
def test_where_a_batch_is_a_canonical_one_the_bits_are_those_of_running_it_all(shards, way):
    """The shards have fewer rows than a canonical batch: what stands in must be what would have been computed."""
    config = {"way": way, "batch_size": 256}
    set_generators((0, "init", 0))
    declared = build_uses(config)
    module = declared.module
    freeze(module, declared.freeze)
    optimizer = declared.optimizer([p for p in module.parameters() if p.requires_grad], fused=True)
    for shard in range(2):
        columns = {
            n: torch.from_numpy(np.array(c)) for n, c in cerebro.open(shards).shard("train", shard).columns.items()
        }
        optimizer.zero_grad()
        declared.loss(module, columns).backward()
        optimizer.step()
    trained = read_tensors(memoryview(state_after(trainer_of(build_uses, shards, config))))
    own = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    assert [name for name in trained if name in own and not torch.equal(trained[name], own[name])] == []
    assert not torch.equal(trained["module/head.weight"], torch.zeros_like(module.head.weight))


def test_a_frozen_part_that_is_random_itself_is_run_in_the_batch(shards):
    def build(config):
        return learner(nn.Sequential(nn.Flatten(), Noisy(60, 9), nn.Linear(9, 4)), config, freeze=["1"])

    trainer = trainer_of(build, shards, {})
    state_after(trainer, 1)
    assert trace_of(trainer).reason == "1 gives not the same twice: it is random, or remembers"


def test_models_that_use_other_parts_of_an_output_share_no_column(shards, tmp_path):
    class Encoder(nn.Module):
        def forward(self, signal):
            return signal[:, 0], signal[:, 1]

    class Net(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part, self.encoder, self.head = part, Encoder(), nn.Linear(20, 4)

        def forward(self, signal):
            return self.head(self.encoder(signal)[self.part])

    def build(config):
        return learner(Net(config["part"]), config, freeze=["encoder"])

    stored = Features("materialize", folder=str(tmp_path))
    for part in (0, 1):
        plain = state_after(trainer_of(build, shards, {"part": part}, Features("recompute")), 1)
        assert state_after(trainer_of(build, shards, {"part": part}, stored), 1) == plain
    assert len(list(tmp_path.iterdir())) == 2


def test_of_an_output_of_many_tensors_only_those_in_use_are_columns(shards):
    class Encoder(nn.Module):
        def forward(self, signal):
            return {"steps": signal.exp(), "mask": None, "pooled": signal.mean(dim=2), "width": 3}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = Encoder(), nn.Linear(3, 4)

        def forward(self, signal):
            found = self.encoder(signal)
            return self.head(found["pooled"] * found["width"])

    trainer = trainer_of(lambda config: learner(Net(), config, freeze=["encoder"]), shards, {})
    state_after(trainer, 1)
    frozen = trainer._learners["m001"].frozen
    assert (frozen.trace.reason, frozen.columns(), frozen.row_bytes) == ("", ["\0frozen/encoder/2"], 12)


@pytest.mark.parametrize("way", INLINE)
def test_what_cannot_be_derived_says_why_and_is_run_in_the_batch(shards, way):
    trainer = trainer_of(build_uses, shards, {"way": way})
    before = {n: t.clone() for n, t in trainer._first_learner("m001").module.named_parameters()}
    state = state_after(trainer, 1)
    after = read_tensors(memoryview(state))
    assert INLINE[way] in trace_of(trainer).reason
    trained = {"module/adapter.weight", "module/head.weight"} if way == "after_trained" else {"module/head.weight"}
    assert {n for n, t in after.items() if n.endswith(".weight") and not torch.equal(t, before[n[7:]])} >= trained


def test_finding_out_changes_nothing(shards):
    trainer = trainer_of(build_transfer, shards, {})
    live = trainer._first_learner("m001")
    before = copy.deepcopy(live.module.state_dict())
    trainer._derived.find_out(live)
    assert live.frozen.trace.needed == (("backbone", 0),)
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.module.state_dict().items())
    assert "forward" not in vars(live.module.backbone)


def test_a_state_holds_only_what_is_trained(shards):
    state = memoryview(state_after(trainer_of(build_transfer, shards, {})))
    assert {name.split(".")[0] for name in read_tensors(state) if name.startswith("module/")} == {"module/head"}


def test_a_frozen_part_is_never_trained_and_stays_in_evaluation_mode(shards):
    trainer = trainer_of(build_transfer, shards, {})
    untrained = {n: t.clone() for n, t in trainer._first_learner("m001").module.backbone.state_dict().items()}
    state_after(trainer)
    module = trainer._learners["m001"].module  # as it was during the visit
    assert module.head.training
    assert not any(part.training for part in module.backbone.modules())
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in module.backbone.state_dict().items())


def test_a_state_is_refused_by_other_frozen_weights(shards):
    state = state_after(trainer_of(build_transfer, shards, {}))

    def build_other(config):
        torch.manual_seed(1)
        return build_transfer(config)

    with pytest.raises(ModelError, match="it must give the same frozen weights"):
        trainer_of(build_other, shards, {}).visit(Unit("m001", "train", 1, 2, 2), memoryview(state))


@pytest.mark.parametrize("mode", ["recompute", "share", "materialize"])
@pytest.mark.parametrize("build", [build_transfer, build_viewed])
def test_every_way_to_come_by_a_column_gives_the_same_state(shards, build, mode, tmp_path):
    config = {"scale": 0.5, "freeze": ["backbone"]}
    plain = state_after(trainer_of(build, shards, config, Features("recompute")))
    trainer = trainer_of(build, shards, config, Features(mode, folder=str(tmp_path)))
    state = state_after(trainer)
    assert state == plain == state_after(trainer)  # the second time from memory, or from the store
    assert len(list(tmp_path.iterdir())) == (0 if mode != "materialize" else 4 if build is build_viewed else 2)


def test_a_view_stores_what_it_changes_only(shards, tmp_path):
    trainer = trainer_of(build_viewed, shards, {"scale": 0.5}, Features("materialize", folder=str(tmp_path)))
    state_after(trainer, 1)
    (file,) = tmp_path.iterdir()
    rows = trainer._shards.open("train", 0).rows
    assert rows * 3 * 20 * 4 < file.stat().st_size < rows * 3 * 20 * 4 + 512


def test_a_column_is_shared_by_learners_that_give_it_the_same(shards, tmp_path):
    for config in ({"lr": 0.1}, {"lr": 0.2, "width": 5}):
        state_after(trainer_of(build_transfer, shards, config, Features("materialize", folder=str(tmp_path))))
    assert len(list(tmp_path.iterdir())) == 2  # one for each shard


def test_other_weights_inputs_or_code_give_another_column(shards, tmp_path):
    def build(config):
        module = Transfer()
        if "bias" in config:
            module.backbone[0].bias.data.add_(config["bias"])
        loss = (
            (lambda m, b: nn.functional.cross_entropy(m(config["gain"] * b["signal"]), b["label"]))
            if "gain" in config
            else None
        )
        return learner(module, config, freeze=["backbone"], **({"loss": loss} if loss else {}))

    for number, config in enumerate(({}, {"bias": 1e-3}, {"gain": 2.0}, {"gain": 3.0}), start=1):
        state_after(trainer_of(build, shards, config, Features("materialize", folder=str(tmp_path))), 1)
        assert len(list(tmp_path.iterdir())) == number


def test_a_random_view_is_applied_to_each_batch(shards):
    trainer = trainer_of(build_viewed, shards, {"freeze": ["backbone"]})
    state_after(trainer)
    live = trainer._learners["m001"]
    assert live.view.reason == "it is random"
    assert live.frozen.trace.reason == "the view is applied to each batch, since it is random"


def test_a_view_must_give_a_row_for_each_row(shards):
    def build(config):
        return learner(Transfer(), config, view=lambda batch: {name: column[1:] for name, column in batch.items()})

    with pytest.raises(ModelError, match=r"Learner.view: gave .* it must give a row for each"):
        state_after(trainer_of(build, shards, {}))


def test_a_sub_module_that_is_not_there_is_named():
    with pytest.raises(SpecError, match=r"Learner.freeze: the module has no sub-module 'trunk'; it has backbone, head"):
        build_transfer({"freeze": ["trunk"]})


def test_freeze_is_a_list():
    with pytest.raises(SpecError, match=r'Learner.freeze: .backbone. is not a list of names; write \["backbone"\]'):
        build_transfer({"freeze": "backbone"})


def test_something_must_be_left_to_train(shards):
    trainer = trainer_of(build_transfer, shards, {"freeze": ["backbone", "head"]})
    with pytest.raises(ModelError, match=r"Learner.freeze: \['backbone', 'head'\] leaves no parameter"):
        state_after(trainer)


def test_the_content_of_what_a_function_holds_is_part_of_its_identity():
    def scaled(factor):
        return lambda batch: factor * batch

    ones = [identity_of(scaled(value)) for value in (1.0, torch.ones(2), [1, 2], nn.Linear(2, 2), nn.Dropout(0.1))]
    others = [identity_of(scaled(value)) for value in (2.0, torch.zeros(2), [1, 3], nn.Linear(2, 2), nn.Dropout(0.2))]
    assert None not in ones
    assert not set(ones) & set(others)
    assert identity_of(scaled(1.0)) == ones[0]
    assert identity_of(scaled(object())) is None


class Deep(nn.Module):
    """Layers in a list within an encoder, a pool without parameters, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(60, 8)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.encoder.norm = nn.LayerNorm(8)
        self.pool = nn.Flatten()
        self.head = nn.Linear(8, 4)

    def forward(self, signal):
        x = self.embed(signal.flatten(1))
        for layer in self.encoder.layer:
            x = torch.relu(layer(x))
        return self.head(self.pool(self.encoder.norm(x)))


@pytest.mark.parametrize(
    ("below", "frozen", "needed"),
    [
        ("head", ("embed", "encoder", "pool"), None),
        ("encoder.layer.1", ("embed", "encoder.layer.0"), "encoder.layer.0"),
        ("encoder.norm", ("embed", "encoder.layer"), "encoder.layer.2"),
        ("encoder", ("embed",), "embed"),
        (None, (), None),
    ],
)
def test_all_that_is_listed_before_a_sub_module_is_frozen(shards, below, frozen, needed):
    assert tuple(learner(Deep(), {}, freeze_below=below).freeze) == frozen
    if needed is not None:
        trainer = trainer_of(lambda config: learner(Deep(), config, freeze_below=below), shards, {})
        state_after(trainer, 1)
        assert (trace_of(trainer).needed, trace_of(trainer).reason) == (((needed, 0),), "")


def test_freeze_below_is_the_same_as_the_names(shards):
    by_names = trainer_of(lambda config: learner(Deep(), config, freeze=["embed", "encoder.layer.0"]), shards, {})
    below = trainer_of(lambda config: learner(Deep(), config, freeze_below="encoder.layer.1"), shards, {})
    assert state_after(by_names) == state_after(below)


def tied():
    module = Deep()
    module.last = module.encoder.layer[1]
    return module


def branched():
    module = Deep()
    module.encoder = nn.ModuleDict({"one": nn.Linear(8, 8), "two": nn.Linear(8, 8)})
    return module


@pytest.mark.parametrize(
    ("module", "below", "message"),
    [
        (Deep, "encoder.layers", "no sub-module 'encoder.layers'; it has embed, encoder, head, pool, encoder.layer"),
        (Deep, 4, "no sub-module 4"),
        (Deep, "embed", "nothing comes before 'embed' in the module; use None to freeze nothing"),
        (
            tied,
            "encoder.layer.1",
            "'encoder.layer.1' is not on one path: the module has it as encoder.layer.1 and as last",
        ),
        (branched, "encoder.two", "'encoder.two' is not on one path: encoder is a ModuleDict"),
    ],
)
def test_a_name_that_says_not_what_is_before_it_is_refused(module, below, message):
    with pytest.raises(SpecError, match=message):
        learner(module(), {}, freeze_below=below)
