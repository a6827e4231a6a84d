"""Whether passes pay is measured while a run goes on, and each way is tried once."""

from hypothesis import given
from hypothesis import strategies as st

from cerebro.execution.drift import Drift, Verdict
from cerebro.messages import Unit, UnitFinished

KIND = "mlp"


def visit(drift, seconds, models=2, worker=0, kind=KIND):
    """The verdict after a visit of so many models, each of which took so many seconds, and was to take one alone."""
    found = [
        drift.heard(
            UnitFinished(Unit(f"m{k:03}", "train", 1, 0, 0), worker, 0.0, seconds, more=k < models - 1), kind, 1.0
        )
        for k in range(models)
    ]
    assert found[:-1] == [None] * (models - 1)
    return found[-1]


def visits(drift, seconds, models=2, count=5):
    """The verdicts after some visits in a row."""
    return [verdict for _ in range(count) if (verdict := visit(drift, seconds, models)) is not None]


def test_passes_that_pay_go_on():
    assert visits(Drift({KIND}), 0.9, count=50) == []


def test_passes_that_lose_are_parted_and_stay_so_where_each_alone_is_quicker():
    drift = Drift({KIND})
    assert visits(drift, 1.5) == [Verdict(KIND, "alone", 1.5, None)]
    assert visits(drift, 1.0, models=1) == [Verdict(KIND, "alone", 1.5, 1.0)]
    assert visits(drift, 9.0, models=1, count=50) == []


def test_models_that_are_no_quicker_alone_go_together_again():
    drift = Drift({KIND})
    visits(drift, 1.5)
    assert visits(drift, 2.0, models=1) == [Verdict(KIND, "together", 1.5, 2.0)]
    assert visits(drift, 9.0, count=50) == []


def test_the_first_visits_on_each_worker_do_not_count():
    drift = Drift({KIND})
    assert [visit(drift, 9.0, worker=worker) for worker in (0, 1, 2, 0, 1, 2)] == [None] * 6
    assert visits(drift, 0.9, count=20) == []


def test_kinds_are_judged_apart_and_others_not_at_all():
    drift = Drift({KIND, "cnn"})
    visits(drift, 0.5)
    assert [visit(drift, 2.0, kind="cnn") for _ in range(5)][-1] == Verdict("cnn", "alone", 2.0, None)
    assert [visit(drift, 2.0, kind="lstm") for _ in range(20)] == [None] * 20


def test_a_pass_whose_last_unit_failed_does_not_count_and_is_no_part_of_the_next():
    drift = Drift({KIND})
    for epoch in range(1, 9):
        cut_short = UnitFinished(Unit("m001", "train", epoch, 0, 0), 0, 0.0, 99.0, more=True)
        assert drift.heard(cut_short, KIND, 1.0) is None
        whole = [UnitFinished(Unit(m, "train", epoch, 1, 1), 0, 0.0, 0.5, more=m == "m001") for m in ("m001", "m002")]
        assert [drift.heard(event, KIND, 1.0) for event in whole] == [None, None]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 4), st.integers(0, 2)), max_size=200))
def test_a_run_changes_its_mind_twice_at_most(seen):
    drift = Drift({KIND})
    verdicts = [found for seconds, models, worker in seen if (found := visit(drift, seconds, models, worker))]
    assert len(verdicts) <= 2
    for verdict in verdicts:
        assert verdict.alone is not None or (verdict.way, verdict.together > 1) == ("alone", True)
