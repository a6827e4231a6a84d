"""Population based training: who is replaced, by whom, and what may change."""

import pytest

import cerebro
from cerebro.commands import Add, Clone, Resume, Stop
from cerebro.control.procedure import Decision, Result, Terms
from cerebro.control.procedures import PBT
from cerebro.control.procedures.explore import Explorer, nudge
from cerebro.control.source import RandomSource
from cerebro.control.steering import Steering
from cerebro.spec.space import Choice, LogUniform, RandInt, Steps

SPACE = {"lr": cerebro.loguniform(1e-4, 1e-1), "width": [16, 32], "opt": {"decay": cerebro.uniform(0, 0.5)}}
VALUES = {"m001": 0.9, "m002": 0.4, "m003": 0.6, "m004": 0.1}


def generation(procedure: PBT, values: dict[str, float | None]) -> list[Decision]:
    """A first generation of four, and the decisions at its end."""
    procedure.begin(Terms(0, "max", 6))
    for model in values:
        procedure.ask(model)
    given = [d for model, value in values.items() for d in procedure.tell(Result(model, {}, 2, value))]
    while (decision := procedure.ask(f"m{len(given) + 5:03d}")) is not None:
        given.append(decision)
    return given


def test_the_worst_go_on_as_changed_copies_of_the_best():
    stop, clone, *others = generation(PBT(SPACE, population=4, interval=2), dict(VALUES))
    assert stop.command == Stop("m004")
    assert isinstance(clone.command, Clone)
    assert (clone.command.model, clone.command.at, clone.command.until) == ("m001", 2, 4)
    assert (clone.command.warm, clone.command.optimizer) == (True, "keep")
    assert [other.command for other in others] == [Resume(f"m00{n}", until=4) for n in (1, 3, 2)]


def test_the_states_of_a_generation_are_kept_until_it_was_compared():
    steering = Steering(PBT(SPACE, population=4, interval=2), Terms(0, "max", 6))
    steering.begin()
    kept = list[int]()
    for epoch in (1, 2):
        steering.offer("m001", epoch, 0.9)
        kept += [epoch] if steering.is_fork_point("m001", epoch) else []
    steering.advance()  # it waits for the others
    assert kept == [2]
    assert steering.is_fork_point("m001", 2)


def test_the_reasons_name_rank_value_and_changes():
    stop, clone, *_ = generation(PBT(SPACE, population=4, interval=2), dict(VALUES))
    assert stop.why == {"rank": 4, "seen": 4, "value": 0.1, "epochs": 2, "threshold": 0.4}
    assert (clone.why["parent"], clone.why["instead"], clone.why["rank"]) == ("m001", "m004", 1)
    assert clone.why["changed"].keys() == clone.command.changes.keys() == {"lr", "opt"}  # type: ignore[union-attr]


def test_a_failed_model_is_replaced_and_not_stopped():
    decisions = generation(PBT(SPACE, population=4, interval=2), {**VALUES, "m004": None})
    stopped = [decision.command for decision in decisions if isinstance(decision.command, Stop)]
    replaced = [decision.why["instead"] for decision in decisions if isinstance(decision.command, Clone)]
    assert stopped == [Stop("m002")]
    assert replaced == ["m002", "m004"]


def test_only_named_dimensions_change():
    procedure = PBT(SPACE, population=4, interval=2, explore=("opt.decay",))
    clone = next(d.command for d in generation(procedure, dict(VALUES)) if isinstance(d.command, Clone))
    assert clone.changes.keys() == {"opt"}


def test_without_resampling_a_value_is_multiplied():
    _, clone, *_ = generation(PBT(SPACE, population=4, interval=2, resample=0.0), dict(VALUES))
    old, new = clone.why["changed"]["lr"]
    assert new / old == pytest.approx(0.8) or new / old == pytest.approx(1.2)


def test_a_constraint_holds_for_copies_too():
    source = RandomSource(SPACE, lambda config: config["lr"] < 0.01)
    for seed in range(20):
        procedure = PBT(source, population=4, interval=2, perturb=(0.5, 50.0))
        procedure.begin(Terms(seed, "max", 6))
        commands = [d.command for n in range(4) if (d := procedure.ask(f"m00{n + 1}")) is not None]
        for model, value in VALUES.items():
            procedure.tell(Result(model, {}, 2, value))
        decision = procedure.ask("m005")
        assert decision is not None
        assert isinstance(decision.command, Clone)
        parent = commands[int(decision.command.model[1:]) - 1]
        assert isinstance(parent, Add)
        assert {**parent.config, **decision.command.changes}["lr"] < 0.01


@pytest.mark.parametrize(
    ("dimension", "value", "factor", "expected"),
    [
        (LogUniform(0.1, 1.0), 0.5, 1.2, 0.6),
        (LogUniform(0.1, 1.0), 0.11, 0.8, 0.1),
        (RandInt(0, 10), 1, 1.2, 2),
        (RandInt(0, 10), 9, 1.2, 9),
        (RandInt(0, 100, 10), 50, 0.8, 40),
        (Steps(0.0, 0.25, 5), 0.5, 1.2, 0.75),
        (Choice((1, 2, 4)), 1, 1.2, 2),
        (Choice((4, 2, 1)), 1, 1.2, 0),
        (Choice((1, 2, 4)), 0, 0.8, 0),
    ],
)
def test_a_nudge_stays_inside_and_reaches_a_neighbour(dimension, value, factor: float, expected):
    assert nudge(dimension, value, factor) == pytest.approx(expected)


def test_a_value_at_its_bound_moves_the_other_way():
    space = {"n": cerebro.randint(0, 3)}
    explorer = Explorer(space, ("n",), (0.8, 1.2), 0.0)
    assert {explorer.explore({"n": 2}, (seed,), None)["n"] for seed in range(20)} == {1}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"population": 1}, r"PBT\.population: 1 is not a whole number of at least 2"),
        ({"quantile": 0.6}, r"PBT\.quantile: 0\.6 is not a number from 0 to 0\.5"),
        ({"perturb": (1.2, 0.8)}, r"PBT\.perturb: \(1\.2, 0\.8\) is not a factor below 1"),
        ({"explore": ("depth",)}, r"PBT\.explore: 'depth' cannot be perturbed; .*lr, width, opt\.decay"),
        ({"explore": "lr"}, r"PBT\.explore: 'lr' is one string"),
        ({"space": {"net": ["mlp", "cnn"]}}, r"PBT\.explore: the space has no continuous dimension"),
    ],
)
def test_a_wrong_value_is_named(values: dict, complaint: str):
    with pytest.raises(cerebro.SpecError, match=complaint):
        PBT(**({"space": SPACE, "population": 4, "interval": 2} | values))
