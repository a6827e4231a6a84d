import io
import json
from pathlib import Path

from rich.console import Console

from cerebro.messages import Unit
from cerebro.report.top import snapshot, watch
from tests.report.catalogs import BEGUN, POSTURE, create, trained, unit_row


def test_a_new_experiment_has_nothing_done(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}], epochs=3)
    seen = snapshot(catalog, lambda: BEGUN)
    assert (seen.status, seen.units_done, seen.eta_seconds, seen.elapsed_seconds) == ("new", 0, None, 0.0)
    assert [model.config for model in seen.models] == [{"lr": 1}, {"lr": 2}]


def test_progress_and_the_time_left_come_from_the_catalog(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}], epochs=2)
    catalog.set_experiment(
        status="running", plan=json.dumps({"workers": 2, "train_shards": 2, "valid_shards": 1, "unheard": {"of": 1}})
    )
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 0, 0), worker=0, started=0.0, seconds=3.0))
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 1, 1), worker=1, started=4.0, seconds=3.0))
    seen = snapshot(catalog, lambda: BEGUN + 12)
    assert (seen.units_done, seen.units_total, seen.elapsed_seconds) == (2, 12, 12.0)
    assert seen.eta_seconds == max((4 * 3.0 + 6 * 3.0) / 2, 6 * 3.0)
    assert [(worker.worker, worker.busy_share, worker.unit) for worker in seen.workers] == [
        (0, 0.25, None),
        (1, 0.25, None),
    ]
    assert seen.workers[1].last == Unit("m001", "train", 1, 1, 1)
    assert [model.status for model in seen.models] == ["training", "waiting"]


def test_a_plan_that_says_nothing_is_replaced_by_what_was_seen(tmp_path: Path):
    catalog = trained(tmp_path, POSTURE, epochs=2)
    before = snapshot(catalog)
    for plan in (None, "{}", '{"workers": "two"}', "[]"):
        catalog.set_experiment(plan=plan)
        assert snapshot(catalog).units_total == before.units_total


def test_a_finished_experiment_stands_still(tmp_path: Path):
    catalog = trained(tmp_path, POSTURE, epochs=2)
    assert snapshot(catalog, lambda: 2e9) == snapshot(catalog, lambda: 3e9)
    seen = snapshot(catalog)
    assert seen.units_done == seen.units_total
    assert seen.eta_seconds == 0.0
    assert seen.models[0].curve == tuple(
        row["value"]
        for row in catalog.metrics()
        if (row["model"], row["split"], row["name"]) == ("m001", "valid", "accuracy")
    )


def test_watch_prints_once_where_it_cannot_redraw(tmp_path: Path):
    catalog = trained(tmp_path, POSTURE, epochs=1)
    catalog.set_experiment(status="running")
    console = Console(file=io.StringIO(), width=160)
    watch(catalog, console=console, sleep=lambda seconds: None)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("accuracy (max)") == 1


def test_watch_ends_with_the_experiment(tmp_path: Path):
    catalog = trained(tmp_path, POSTURE, epochs=1)
    catalog.set_experiment(status="running")
    console = Console(file=io.StringIO(), width=160, height=40, force_terminal=True)
    watch(catalog, console=console, sleep=lambda seconds: catalog.set_experiment(status="interrupted"))
    assert isinstance(console.file, io.StringIO)
    assert "interrupted" in console.file.getvalue()
