"""What must hold of every procedure when it decides in a real run, as checks that a test of a procedure runs:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_a_search_conforms(check):
        check(Subject(lambda: MyProcedure(space, models=20), epochs=9))

Each check lets the procedure search on the simulated engine (`cerebro.testing.simulated_search`), with the steering,
the executor and the scheduler of a real run. What must hold of a procedure by itself is in `procedure_conformance`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

from cerebro.control.procedure import Terms
from cerebro.engines.simulated import Fate, noisy
from cerebro.messages import Unit
from cerebro.testing.procedure_conformance import Mode, Subject, value_at
from cerebro.testing.simulated_search import Config, Setting, SimulatedSearch, nothing_fails, one_second

SETTING = Setting(value_at)
WORKERS = (2, 3, 8)


def search(subject: Subject, setting: Setting = SETTING, mode: Mode = "max") -> SimulatedSearch:
    """Let a new procedure search to its end."""
    return SimulatedSearch(subject.make(), Terms(subject.seed, mode, subject.epochs), setting)


def any_number_of_workers_decides_the_same(subject: Subject) -> None:
    """As many models, with the same configs, decisions and visits, on 1, 2, 3 and 8 workers."""
    one = search(subject)
    for workers in WORKERS:
        _check_equal(one, search(subject, replace(SETTING, workers=workers)), f"1 worker and {workers}")


def costs_decide_nothing(subject: Subject) -> None:
    """Models that take up to eight times as long as others, and units that take more or less, change no decision."""
    alike, uneven = (search(subject, replace(SETTING, workers=3, seconds=costs)) for costs in (one_second, _uneven))
    _check_equal(alike, uneven, "equal and uneven costs")


def deaths_of_workers_decide_nothing(subject: Subject) -> None:
    """Workers that die, each on a unit that then runs again, change no decision."""
    calm, deadly = (search(subject, replace(SETTING, workers=3, fate=fate)) for fate in (nothing_fails, _deadly))
    _check_equal(calm, deadly, "workers that live and workers that die")


def the_mode_of_a_search_decides_what_is_better(subject: Subject) -> None:
    """To maximise a value is to minimise its negative: the same models train as far."""
    most = search(subject, mode="max")
    least = search(subject, replace(SETTING, score=lambda config, epoch: -value_at(config, epoch)), "min")
    assert (most.configs, most.epochs) == (least.configs, least.epochs), "max, and min of the negative, differ"


def no_model_trains_beyond_the_last_epoch(subject: Subject) -> None:
    """No unit belongs to an epoch after the experiment's last one."""
    beyond = [unit for unit in search(subject, replace(SETTING, workers=2)).units if unit.epoch > subject.epochs]
    assert not beyond, f"the last epoch is {subject.epochs}, and this is after it: {beyond[0]}"


def all_is_accounted_for(subject: Subject) -> None:
    """Every finished epoch has each of its visits once; every model has come to its end, or is paused where it is."""
    check_accounts(search(subject, replace(SETTING, workers=3, seconds=_uneven, fate=_deadly)), subject.epochs)


def models_that_fail_end_alone(subject: Subject) -> None:
    """Where a fifth of the models fail, these end, all else is accounted for, and 3 workers decide as 1 does."""
    one, three = (search(subject, replace(SETTING, workers=workers, fate=_faulty)) for workers in (1, 3))
    assert one.failed or len(one.configs) < 3, "no model has failed, and one was to"
    _check_equal(one, three, "1 worker and 3, where models fail")
    check_accounts(three, subject.epochs)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    any_number_of_workers_decides_the_same,
    costs_decide_nothing,
    deaths_of_workers_decide_nothing,
    the_mode_of_a_search_decides_what_is_better,
    no_model_trains_beyond_the_last_epoch,
    all_is_accounted_for,
    models_that_fail_end_alone,
)


def check_accounts(run: SimulatedSearch, epochs: int) -> None:
    """Check that nothing of a run was lost, done twice, or left under way.

    Raises:
        AssertionError: it was.
    """
    visits = defaultdict[str, Counter[int]](Counter)
    for unit in set(run.units):
        visits[unit.model][unit.epoch] += 1
    assert len(set(run.units)) == len(run.units), "a unit has ended well twice"
    assert not run.steering.underway(), f"under way at the end: {sorted(run.steering.underway())}"
    last = {ruling.model: ruling for ruling in run.rulings if ruling.model is not None}
    for model, epoch in run.epochs.items():
        if model in run.failed:
            continue
        begun = run.begun[model]
        expected = dict.fromkeys(range(begun + 1, epoch + 1), run.visits)
        assert visits[model] == expected, f"{model} has {dict(visits[model])} visits by epoch, and not {expected}"
        ruling = last.get(model)
        paused = ruling is not None and (ruling.kind, ruling.epoch) == ("paused", epoch)
        assert paused or epoch == epochs, f"{model} is at epoch {epoch}, and its last ruling is {ruling}"


def _uneven(config: Config, unit: Unit) -> float:
    return (1 + 7 * value_at(config, 0)) * noisy(lambda unit: 1.0, 0.5)(unit)


def _deadly(unit: Unit, attempt: int) -> Fate:
    return "killed" if attempt == 0 and _draw(unit) < 0.1 else "finished"


def _faulty(unit: Unit, attempt: int) -> Fate:
    """A fifth of the models, each at the end of one of the first three epochs."""
    number = int(unit.model[1:])
    fails = number % 5 == 3 and unit.kind == "valid" and unit.epoch == 1 + number % 3
    return "failed" if fails else "finished"


def _draw(unit: Unit) -> float:
    return noisy(lambda unit: 0.5, 1.0)(unit)


def _check_equal(one: SimulatedSearch, other: SimulatedSearch, what: str) -> None:
    for number, (first, second) in enumerate(zip(one.decisions, other.decisions, strict=False)):
        assert first == second, f"{what}: decision {number} is {first}, and then {second}"
    assert len(one.decisions) == len(other.decisions), f"{what}: {len(one.decisions)} decisions, {len(other.decisions)}"
    assert one.epochs == other.epochs, f"{what}: the models came to {one.epochs}, and then to {other.epochs}"
    for model in one.configs.keys() - one.failed:
        assert one.state(model) == other.state(model), f"{what}: {model} was not trained the same"
