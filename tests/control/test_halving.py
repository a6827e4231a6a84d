"""Successive halving, Hyperband and ASHA against the published table, a trace by hand and a plain reading."""

import random
from collections import Counter

import pytest

import cerebro
from cerebro.commands import Add, Resume
from cerebro.control.procedure import Procedure, Result, Terms
from cerebro.control.procedures import ASHA, Hyperband, SuccessiveHalving
from cerebro.control.procedures.hyperband import bracket_models
from cerebro.control.procedures.rungs import rung_epochs
from cerebro.testing.procedure_conformance import Subject, command_lines, drive

SPACE = {"lr": cerebro.loguniform(1e-5, 1e-1), "drop": cerebro.uniform(0, 0.5)}

# Li et al., JMLR 18(185), 2018, Algorithm 1 for R=81, eta=3: (n_i, r_i) of each bracket s, which begins with
# n = ceil((s_max + 1) / (s + 1) * eta^s) models. The table printed with earlier versions of the paper has 27, 9, 6 and
# 5 models in brackets 3 to 0: (s_max + 1) / (s + 1) was rounded down before it was multiplied. We follow the algorithm,
# since brackets are meant to cost about the same, B = (s_max + 1) R = 405 epochs where each rung counts in full: 34, 15
# and 8 models cost 363, 351 and 378; 27, 9 and 6 would cost 324, 243 and 324.
EARLIER_TABLE_81 = {4: 81, 3: 27, 2: 9, 1: 6, 0: 5}
HYPERBAND_81 = {
    4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    3: [(34, 3), (11, 9), (3, 27), (1, 81)],
    2: [(15, 9), (5, 27), (1, 81)],
    1: [(8, 27), (2, 81)],
    0: [(5, 81)],
}


def answer(
    procedure: Procedure, values: dict[str, list[float | None]], mode: str = "max", epochs: int = 9
) -> list[str]:
    """One lane: what was asked for, where the n-th result of each model is the n-th of its values."""
    procedure.begin(Terms(0, mode, epochs))  # type: ignore[arg-type]
    left, lines = {model: list(given) for model, given in values.items()}, list[str]()
    begun = 0
    while (decision := procedure.ask(fresh := f"m{begun + 1:03d}")) is not None:
        command = decision.command
        begun += isinstance(command, Add)
        model = command.model if isinstance(command, Resume) else fresh
        until = command.until or epochs  # type: ignore[union-attr]
        lines.append(f"{'resume' if isinstance(command, Resume) else 'add'} {model} until {until}")
        procedure.tell(Result(model, {}, until, left[model].pop(0)))
    return lines


def test_hyperband_has_the_brackets_of_the_paper():
    decisions = drive(Subject(lambda: Hyperband(SPACE, max_epochs=81, lanes=16), epochs=81)).decisions
    found = Counter((decision.why["bracket"], decision.why["epochs"]) for decision in decisions)
    assert found == {(s, epochs): count for s, rungs in HYPERBAND_81.items() for count, epochs in rungs}


def test_brackets_begin_with_as_many_models_as_the_algorithm_says_and_not_the_earlier_table():
    found = bracket_models(81, 3)
    assert found == {s: rungs[0][0] for s, rungs in HYPERBAND_81.items()}
    assert {s: (5 // (s + 1)) * 3**s for s in range(5)} == EARLIER_TABLE_81
    assert {s: models for s, models in found.items() if models != EARLIER_TABLE_81[s]} == {3: 34, 2: 15, 1: 8}


@pytest.mark.parametrize(("most", "eta"), [(81, 3), (27, 3), (16, 2), (100, 4), (729, 3)])
def test_every_bracket_costs_about_as_much(most: int, eta: int):
    """Where each rung counts in full: about B = (s_max + 1) R, and never more than one model above it on each rung."""
    epochs = rung_epochs(1, most, eta)
    for s, models in bracket_models(most, eta).items():
        rungs = epochs[len(epochs) - 1 - s :]
        spent = sum(max(1, models // eta**level) * until for level, until in enumerate(rungs))
        assert 0.6 * len(epochs) * most <= spent <= len(epochs) * most + sum(rungs)


def test_successive_halving_has_the_rungs_of_the_most_eager_bracket():
    subject = Subject(lambda: SuccessiveHalving(SPACE, models=81, max_epochs=81), epochs=81)
    found = Counter(decision.why["epochs"] for decision in drive(subject).decisions)
    assert found == {epochs: count for count, epochs in HYPERBAND_81[4]}


@pytest.mark.parametrize(
    ("least", "most", "eta", "epochs"),
    [(1, 81, 3, (1, 3, 9, 27, 81)), (1, 10, 3, (1, 3, 10)), (2, 8, 2, (2, 4, 8)), (3, 8, 2, (4, 8)), (5, 5, 3, (5,))],
)
def test_rungs_end_at_the_last_epoch(least: int, most: int, eta: int, epochs: tuple[int, ...]):
    assert rung_epochs(least, most, eta) == epochs


def test_the_best_of_a_rung_go_on():
    procedure = SuccessiveHalving(SPACE, models=4, max_epochs=4, eta=2)
    values = {"m001": [0.1], "m002": [0.4, 0.5, 0.9], "m003": [0.2], "m004": [0.3, 0.4]}
    assert answer(procedure, values) == [
        *(f"add m00{number} until 1" for number in (1, 2, 3, 4)),
        "resume m002 until 2",
        "resume m004 until 2",
        "resume m002 until 4",
    ]


def test_of_equal_models_the_earlier_goes_on():
    procedure = SuccessiveHalving(SPACE, models=3, max_epochs=3, eta=3)
    assert answer(procedure, {"m001": [0.5, 1], "m002": [0.5], "m003": [0.5]})[-1] == "resume m001 until 3"


def test_a_lane_does_not_wait_for_the_rung_of_one_bracket():
    procedure = Hyperband(SPACE, max_epochs=9, lanes=32)
    procedure.begin(Terms(0, "max", 9))
    brackets = [decision.why["bracket"] for n in range(30) if (decision := procedure.ask(f"m{n}")) is not None]
    assert Counter(brackets) == {2: 9, 1: 5, 0: 3}


def test_a_stopped_model_leaves_its_place_to_another():
    procedure = SuccessiveHalving(SPACE, models=3, max_epochs=3, eta=3)
    procedure.begin(Terms(0, "max", 3))
    for model, value in (("m001", 0.9), ("m002", 0.8)):
        procedure.ask(model)
        procedure.tell(Result(model, {}, 1, value))
    procedure.ask("m003")
    procedure.censor("m001", 1)
    procedure.censor("m003", 0)
    decision = procedure.ask("m004")
    assert decision is not None
    assert decision.command == Resume("m002", until=3)


def test_asha_promotes_as_in_a_trace_by_hand():
    """Algorithm 2 of MLSys 2020 with eta=2 and rungs at 1, 2 and 4; the comments are the rungs after each answer."""
    values: dict[str, list[float | None]] = {
        "m001": [0.5],  # rung 0: m1
        "m002": [0.7, 0.6, 0.8],  # rung 0: m2 m1, room 1: m2 goes on; rung 1: m2
        "m003": [0.9, 0.5],  # rung 0: m3 m2 m1, room 1: m3 goes on; rung 1: m2 m3, room 1: m2 goes on to the top
        "m004": [0.6],  # rung 0: m3 m2 m4 m1, room 2, both promoted
        "m005": [0.8, 0.55],  # rung 0: m3 m5 m2 m4 m1, room 2: m5 goes on; rung 1: m2 m5 m3, room 1, promoted
    }
    assert answer(ASHA(SPACE, models=5, max_epochs=4, eta=2), values) == [
        "add m001 until 1",
        "add m002 until 1",
        "resume m002 until 2",
        "add m003 until 1",
        "resume m003 until 2",
        "resume m002 until 4",
        "add m004 until 1",
        "add m005 until 1",
        "resume m005 until 2",
    ]


def test_asha_says_why():
    procedure = ASHA(SPACE, models=5, max_epochs=4, eta=2)
    procedure.begin(Terms(0, "min", 4))
    for model, value in (("m001", 0.5), ("m002", 0.25)):
        procedure.ask(model)
        procedure.tell(Result(model, {}, 1, value))
    decision = procedure.ask("m003")
    assert decision is not None
    assert decision.why == {"rung": 1, "epochs": 2, "rank": 1, "seen": 2, "threshold": 0.25, "value": 0.25}


def test_asha_counts_failures_as_seen_and_never_promotes_them():
    values: dict[str, list[float | None]] = {"m001": [None], "m002": [0.1, 0.2], "m003": [None], "m004": [None]}
    assert answer(ASHA(SPACE, models=4, max_epochs=2, eta=2), values) == [
        "add m001 until 1",
        "add m002 until 1",
        "resume m002 until 2",
        "add m003 until 1",
        "add m004 until 1",
    ]


def naive_asha(values: dict[str, list[float]], models: int, epochs: tuple[int, ...], eta: int) -> list[str]:
    """Algorithm 2 read line by line, without any care for time."""
    rungs: list[dict[str, float]] = [{} for _ in epochs]
    promoted: list[set[str]] = [set() for _ in epochs]
    lines, begun = list[str](), 0
    while True:
        for k in reversed(range(len(epochs) - 1)):
            best = sorted(rungs[k], key=lambda model: (-rungs[k][model], model))[: len(rungs[k]) // eta]
            if able := [model for model in best if model not in promoted[k]]:
                promoted[k].add(able[0])
                rungs[k + 1][able[0]] = values[able[0]][k + 1]
                lines.append(f"resume {able[0]} until {epochs[k + 1]}")
                break
        else:
            if begun == models:
                return lines
            begun += 1
            rungs[0][f"m{begun:03d}"] = values[f"m{begun:03d}"][0]
            lines.append(f"add m{begun:03d} until {epochs[0]}")


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_equals_a_plain_reading_of_the_algorithm(eta: int):
    draws = random.Random(eta)
    values = {f"m{number:03d}": [draws.randrange(40) / 40 for _ in range(6)] for number in range(1, 201)}
    epochs = rung_epochs(1, 32, eta)
    found = answer(ASHA(SPACE, models=200, max_epochs=32, eta=eta), dict(values), epochs=32)
    assert found == naive_asha(values, 200, epochs, eta)


def test_more_epochs_than_the_experiment_has_are_refused():
    procedure = ASHA(SPACE, models=5, max_epochs=27)
    with pytest.raises(cerebro.SpecError, match=r"ASHA\.max_epochs: 27 is more than the 10 epochs"):
        procedure.begin(Terms(0, "max", 10))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"models": 0}, r"ASHA\.models: 0 is not a whole number of at least 1"),
        ({"eta": 1}, r"ASHA\.eta: 1 is not a whole number of at least 2"),
        ({"min_epochs": 10}, r"ASHA: min_epochs is 10 and max_epochs 9"),
        ({"lanes": None}, r"ASHA\.lanes: None is not"),
        ({"space": 3}, r"search: 3 is not a space"),
    ],
)
def test_a_wrong_value_is_named(values: dict, complaint: str):
    with pytest.raises(cerebro.SpecError, match=complaint):
        ASHA(**({"space": SPACE, "models": 5, "max_epochs": 9} | values))


def test_a_run_prints_as_commands():
    lines = command_lines(drive(Subject(lambda: ASHA(SPACE, models=3, max_epochs=3, lanes=1), epochs=3)).decisions)
    assert lines[0] == "add until 1"
    assert lines[-1].startswith("resume m00")
