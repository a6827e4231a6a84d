"""What each rule makes of a plan: the tree before, the tree after, and what was weighed, as text.

A case is a file in `rules/`. To add one, add its plan to `CASES` and an empty file, and look well at what the test
shows before you keep it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cerebro.optimizer.cost_model import Prices
from cerebro.optimizer.given import Given, Means
from cerebro.optimizer.optimizer import applied
from cerebro.optimizer.rule import Rule
from cerebro.optimizer.rules.derive import derive
from cerebro.optimizer.rules.fork import fork
from cerebro.optimizer.rules.fuse import fuse
from cerebro.optimizer.rules.hop import hop
from cerebro.optimizer.rules.layout import layout
from cerebro.plan.considered import considered_text
from cerebro.plan.cost import Rewrite, Together
from cerebro.plan.features import Features
from cerebro.plan.logical import Select
from cerebro.plan.node import Node, tree
from tests.optimizer.plans import BACKBONE, CNN, MLP, given, grid, select

FOLDER = Path(__file__).parent / "rules"
LARGE = replace(MLP, state_bytes=8 << 20)
STACKED = Together(4, "", 1.5, 1.5, stacked_train_gain=3.2, stacked_valid_gain=3, deviation=4e-6)
HEADS = replace(MLP, derived=(BACKBONE,), together=None)
FUSED_HEADS = replace(HEADS, together=MLP.together)
ONE = Means(1, "longest-remaining", "local")


def using(mode: str, workers: int = 2) -> Means:
    return Means(workers, "longest-remaining", "local", Features(mode=mode, folder="features"))  # type: ignore[arg-type]


def two_kinds(count: int) -> tuple[Select, Given]:
    configs = {**grid(count, net="mlp")} | {f"m{count + n:03d}": {"net": "cnn", "lr": n / 1000} for n in (1, 2, 3)}
    profiles = {model: MLP if config["net"] == "mlp" else CNN for model, config in configs.items()}
    return select(configs), given(configs, profiles)


def plain(count: int, profile: object = MLP, **more: object) -> tuple[Select, Given]:
    return select(grid(count)), given(grid(count), profile, **more)  # type: ignore[arg-type]


def staged(profile: object = CNN, **more: object) -> tuple[Select, Given]:
    """Eight models: two trainings in epochs 1 and 2, four in 3, and then each its own."""
    rates = [(first, second, third) for third in (0.3, 0.4) for second in (0.2, 0.1) for first in (0.1, 0.5)]
    configs = {
        f"m{number:03d}": {"lr": {"@1": first, "@3": second, "@4": third}}
        for number, (first, second, third) in enumerate(rates, start=1)
    }
    return select(configs, epochs=6), given(configs, profile, **more)  # type: ignore[arg-type]


CASES: dict[str, tuple[tuple[Rule, ...], Callable[[], tuple[Select, Given]]]] = {
    "hop": ((hop,), lambda: two_kinds(4)),
    "derive-nothing": ((derive,), lambda: plain(4)),
    "derive-stores": ((derive,), lambda: plain(4, HEADS, means=using("auto"))),
    "derive-shares": ((derive,), lambda: plain(4, HEADS, means=using("auto", workers=1))),
    "derive-has-no-room": ((derive,), lambda: plain(4, HEADS, means=using("auto"), disk_bytes=200_000.0)),
    "derive-as-asked": ((derive,), lambda: plain(4, HEADS, means=using("recompute"))),
    "derive-in-batch": (
        (derive,),
        lambda: plain(4, replace(MLP, derived=(replace(BACKBONE, note="it takes batch statistics"),))),
    ),
    "fuse": ((hop, fuse), lambda: two_kinds(4)),
    "fuse-leaves-workers-idle": ((hop, fuse), lambda: plain(3, replace(MLP, together=Together(2, "", 1.2, 1.2)))),
    "fuse-gains-little": ((hop, fuse), lambda: plain(4, replace(MLP, together=Together(4, "", 1.04, 1.0)))),
    "fuse-diverges": ((hop, fuse), lambda: plain(4, replace(MLP, together=Together(4, "one diverges in the pilot")))),
    "fuse-frozen": ((derive, hop, fuse), lambda: plain(4, FUSED_HEADS, means=using("auto"))),
    "fuse-not-allowed": ((hop, fuse), lambda: plain(4, means=replace(ONE, fuse=False))),
    "fuse-apart": ((hop, fuse), lambda: plain(4, apart="order='latin': no two models visit a shard at the same time")),
    "fuse-enough-workers": ((hop, fuse), lambda: plain(2, replace(MLP, together=None))),
    "fork": ((hop, fork), staged),
    "fork-nothing-in-common": ((hop, fork), lambda: plain(4)),
    "fork-not-allowed": ((hop, fork), lambda: staged(means=replace(ONE, fork=False))),
    "fork-apart": ((hop, fork), lambda: staged(apart="independent=True: each model sees other batches")),
    "fork-fused": ((hop, fuse, fork), lambda: staged(MLP)),
    "fork-leaves-workers-idle": (
        (hop, fuse, fork),
        lambda: staged(replace(MLP, together=Together(4, "", 6.0, 6.0)), means=replace(ONE, workers=4)),
    ),
    "fork-stacked": ((hop, fuse, fork), lambda: staged(replace(MLP, together=STACKED))),
    "fuse-stacked": ((hop, fuse), lambda: plain(4, replace(MLP, together=STACKED))),
    "fuse-exact-gains-as-much": ((hop, fuse), lambda: plain(4, replace(MLP, together=replace(STACKED, train_gain=3)))),
    "layout": ((hop, fuse, layout), lambda: plain(4, replace(CNN, rewrites=(Rewrite("channels_last", 1.3, 2e-7),)))),
    "layout-gains-little": (
        (hop, fuse, layout),
        lambda: plain(4, replace(CNN, rewrites=(Rewrite("channels_last", 1.05, 2e-7),))),
    ),
    "fuse-not-enough-memory": (
        (hop, fuse),
        lambda: plain(40, LARGE, memory_bytes=1470 << 20),
    ),
}


def noted(root: Node) -> str:
    return tree(root, lambda node: node.note())


def told(rules: tuple[Rule, ...], root: Select, known: Given) -> str:
    """The tree before the last rule, after it, and what was weighed for it."""
    prices = Prices(known)
    before, _ = applied(rules[:-1], root, prices)
    after, considered = applied(rules[-1:], before, prices)
    changed = noted(after) if after != before else "the same"
    return f"{noted(before)}\n--- {rules[-1].__name__}\n{changed}\n--- why\n{considered_text(considered)}\n"


@pytest.mark.parametrize("name", CASES)
def test_a_rule_makes_of_a_plan_what_is_written(name):
    rules, make = CASES[name]
    assert told(rules, *make()) == (FOLDER / f"{name}.txt").read_text()


def test_every_written_plan_is_tried():
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)
