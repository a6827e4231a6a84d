"""Optuna as a procedure and as a source: what it is told, and what it is not told."""

import subprocess
import sys
from typing import Any

import pytest

import cerebro
from cerebro.commands import Add, Resume
from cerebro.control.procedure import Result, Terms
from cerebro.control.procedures import ASHA, OptunaSearch

optuna = pytest.importorskip("optuna")
SPACE = {"lr": cerebro.loguniform(1e-4, 1.0), "net": [{"kind": "mlp", "drop": cerebro.uniform(0, 1)}, "linear"]}
STATE = optuna.trial.TrialState


def asked(procedure: Any, models: int, mode: str = "max", epochs: int = 9) -> dict[str, Any]:
    """Begin, and ask for so many new models: their configs."""
    procedure.begin(Terms(0, mode, epochs))  # type: ignore[arg-type]
    found = dict[str, Any]()
    for number in range(1, models + 1):
        command = procedure.ask(f"m{number:03d}").command
        assert isinstance(command, Add)
        found[f"m{number:03d}"] = command.config
    return found


def studied(search: OptunaSearch) -> list[tuple[Any, float | None, dict[int, float]]]:
    """What the study holds: state, value and intermediate values of each."""
    frozen = search._study.get_trials()
    return [(entry.state, entry.value, dict(entry.intermediate_values)) for entry in frozen]


def test_a_finished_model_is_complete_a_failed_one_is_the_worst_and_a_stopped_one_is_passed_over():
    search = OptunaSearch(SPACE, models=4)
    configs = asked(search, 4)
    search.tell(Result("m001", configs["m001"], 9, 0.5))
    search.tell(Result("m002", configs["m002"], 9, None))
    search.censor("m003", 4)
    search.tell(Result("m004", configs["m004"], 9, float("nan")))
    assert studied(search) == [
        (STATE.COMPLETE, 0.5, {9: 0.5}),
        (STATE.PRUNED, None, {}),
        (STATE.FAIL, None, {}),
        (STATE.PRUNED, None, {}),
    ]


def test_as_a_source_a_model_counts_once_at_the_last_epoch_that_it_came_to():
    search = OptunaSearch(SPACE)
    procedure = ASHA(search, models=3, max_epochs=9)
    configs = asked(procedure, 3)
    for model, value in (("m001", 0.1), ("m002", 0.3), ("m003", 0.2)):
        procedure.tell(Result(model, configs[model], 1, value))
    for until, value in ((3, 0.4), (9, 0.6)):
        search.observe(Result("m002", configs["m002"], until, value))
    search.censor("m001", 1)
    assert studied(search) == [
        (STATE.PRUNED, 0.1, {1: 0.1}),
        (STATE.COMPLETE, 0.6, {9: 0.6}),
        (STATE.PRUNED, 0.2, {1: 0.2}),
    ]


def test_asha_promotes_what_tpe_proposed():
    procedure = ASHA(OptunaSearch(SPACE), models=4, max_epochs=3)
    configs = asked(procedure, 3, epochs=3)
    for number, model in enumerate(configs):
        procedure.tell(Result(model, configs[model], 1, 0.1 * number))
    assert procedure.ask("m004").command == Resume("m003", until=3)  # type: ignore[union-attr]
    assert procedure.ask("m004").why["source"] == "optuna-tpe"  # type: ignore[union-attr]


def test_models_of_a_person_count_if_their_configs_are_in_the_space():
    search = OptunaSearch(SPACE, models=4)
    asked(search, 0)
    search.tell(Result("m050", {"lr": 0.01, "net": {"kind": "mlp", "drop": 0.5}}, 9, 0.7))
    search.tell(Result("m051", {"lr": 5.0, "net": "linear"}, 9, 0.9))
    search.tell(Result("m052", {"lr": 0.02, "net": "linear", "more": 1}, 9, 0.9))
    (entry,) = search._study.get_trials()
    assert (entry.state, entry.value) == (STATE.COMPLETE, 0.7)
    assert entry.params == {"lr": 0.01, "net": 0, "net[0].drop": 0.5}


@pytest.mark.parametrize(("mode", "sign"), [("max", -1.0), ("min", 1.0)])
def test_tpe_comes_closer_than_chance(mode: str, sign: float):
    def distances(sampler: str) -> float:
        search, found = OptunaSearch({"x": cerebro.uniform(-5, 5)}, models=40, sampler=sampler), list[float]()
        search.begin(Terms(0, mode, 1))  # type: ignore[arg-type]
        for number in range(40):
            config = search.ask(f"m{number}").command.config  # type: ignore[union-attr]
            found.append(abs(config["x"] - 2))
            search.tell(Result(f"m{number}", config, 1, sign * found[-1] ** 2))
        return sum(found[20:]) / 20

    assert distances("tpe") < 0.5 * distances("random")


@pytest.mark.filterwarnings("ignore")  # Optuna calls what is compared with experimental
def test_tpe_draws_what_the_sampler_of_optuna_draws(monkeypatch: pytest.MonkeyPatch):
    space = {
        "lr": cerebro.loguniform(1e-4, 1.0),
        "fixed": [7],
        "net": [
            {"kind": "mlp", "drop": cerebro.uniform(0, 1), "layers": cerebro.randint(1, 5)},
            {"kind": "cnn", "kernel": [3, 5, 7], "drop": cerebro.uniform(0, 1)},
        ],
    }

    def drawn() -> list[Any]:
        search, configs = OptunaSearch(space), list[Any]()
        search.begin(Terms(3, "min", 9))
        for number in range(60):
            configs.append(search.propose(number, f"m{number:03d}"))
            for model, epoch in ((number - 3, 3), (number - 9, 9)):  # some are behind, some go on and some fail
                if model >= 0 and (epoch == 3 or model % 2):
                    value = None if model % 7 == 6 else configs[model]["lr"] + configs[model]["net"]["drop"] / epoch
                    search.observe(Result(f"m{model:03d}", configs[model], epoch, value))
        return configs

    ours = drawn()
    plain = lambda name, seed: optuna.samplers.TPESampler(  # noqa: E731
        seed=seed, multivariate=True, group=True, constant_liar=False
    )
    monkeypatch.setattr("cerebro.control.procedures.optuna_search._sampler", plain)
    assert drawn() == ours


def test_no_config_comes_twice():
    configs = asked(OptunaSearch({"x": [1, 2, 3], "y": [True, False]}, models=6), 6)
    assert len({str(config) for config in configs.values()}) == 6


def test_a_constraint_holds():
    search = OptunaSearch(SPACE, models=20, constraint=lambda config: config["lr"] < 1e-3)
    assert all(config["lr"] < 1e-3 for config in asked(search, 20).values())


def test_without_models_it_is_only_a_source():
    search = OptunaSearch(SPACE)
    search.begin(Terms(0, "max", 9))
    with pytest.raises(cerebro.SpecError, match=r"OptunaSearch\.models: None; give how many"):
        search.ask("m001")


def test_an_unknown_sampler_is_named():
    with pytest.raises(cerebro.SpecError, match="sampler: 'bohb' is not one of tpe, gp, cmaes, nsgaii, random"):
        OptunaSearch(SPACE, models=3, sampler="bohb")


def test_without_optuna_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(cerebro.SpecError, match=r"pip install 'cerebro-select\[optuna\]'"):
        OptunaSearch(SPACE, models=3).begin(Terms(0, "max", 9))


def test_without_a_package_of_a_sampler_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(cerebro.SpecError, match=r"'cmaes' needs cmaes: pip install"):
        OptunaSearch(SPACE, models=3, sampler="cmaes").begin(Terms(0, "max", 9))


def test_the_logging_of_optuna_is_left_as_it_was(capfd: pytest.CaptureFixture[str]):
    before = optuna.logging.get_verbosity()
    asked(OptunaSearch(SPACE, models=3), 3)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_importing_the_procedures_loads_nothing_heavy():
    code = "import sys, cerebro.control.procedures as p; p.Grid({'a': [1]}); p.OptunaSearch({'a': [1]})\n"
    code += "print(*{'optuna', 'torch', 'numpy', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
