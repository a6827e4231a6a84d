"""The bill: what an experiment cost, on what that was spent, and what a model cost on the leaderboard."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cerebro.messages import Unit
from cerebro.report.bill import Bill, Cost, Group, bill, print_bill
from cerebro.report.leaderboard import leaderboard
from cerebro.report.table import print_table
from cerebro.storage.catalog import Catalog
from tests.report.catalogs import POSTURE, create, finish, trained, unit_row


def begin(catalog: Catalog, run: int = 1, workers: int = 2, **budget: float) -> None:
    body: dict[str, Any] = {"run": run, "workers": workers, "device": "cpu", "budget": budget or None}
    catalog.add_event("user", "run started", body)


def visit(catalog: Catalog, model: str, run: int = 1, started: float = 0.0, seconds: float = 1.0, epoch: int = 1):
    catalog.add_unit(unit_row(Unit(model, "train", epoch, 0, 0), run, started=started, seconds=seconds))
    catalog.add_seconds(model, seconds)


def compared(folder: Path, **budget: float) -> Catalog:
    """Five models on two workers in ten seconds: a winner, another, and a stopped, a diverged and a waiting one."""
    catalog = create(folder, [{"lr": lr} for lr in range(5)])
    begin(catalog, **budget)
    for index, model in enumerate(("m001", "m002", "m003", "m004")):
        visit(catalog, model, started=2.5 * index, seconds=2.5)
    finish(catalog, "m001", {"accuracy": 0.5})
    finish(catalog, "m002", {"accuracy": 0.9})
    catalog.set_model("m003", status="stopped")
    catalog.set_model("m004", status="diverged", error="NaN")
    return catalog


def printed(found: Bill) -> str:
    file = io.StringIO()
    print_bill(found, Console(file=file, width=120))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def shares(found: Bill) -> dict[str, tuple[int, float]]:
    return {group.name: (group.models, group.share) for group in found.groups}


def test_every_second_of_a_worker_was_spent_on_one_group(tmp_path: Path):
    found = bill(compared(tmp_path))
    assert shares(found) == {
        "winner": (1, 0.125),
        "other finished": (1, 0.125),
        "stopped": (1, 0.125),
        "failed": (1, 0.125),
        "under way": (1, 0.0),
        "outside units": (0, 0.5),
    }
    assert found.total == Group("total", 5, Cost(20.0, 4.0, None, None), 1.0)
    assert found.wall_seconds == 10.0


def test_what_groups_and_models_cost_adds_up_to_what_the_runs_cost(tmp_path: Path):
    catalog = compared(tmp_path, price=3600)
    catalog.add_event(
        "engine", "spent", {"run": 1, "seconds": 12.0, "worker_seconds": 24.0, "kwh": 0.48, "dollars": 24.0}
    )
    found = bill(catalog)
    assert found.total.cost.dollars == pytest.approx(24.0)
    assert found.total.cost.kwh == pytest.approx(0.48)
    assert [model.cost.dollars for model in found.models] == pytest.approx([2.5, 2.5, 2.5, 2.5, 0.0])
    outside = found.groups[-1]
    assert (outside.name, outside.cost.seconds, outside.cost.dollars) == ("outside units", 14.0, pytest.approx(14.0))
    assert outside.cost.kwh == pytest.approx(0.28)


def test_paused_models_are_stopped_ones(tmp_path: Path):
    catalog = compared(tmp_path)
    catalog.set_model("m005", status="paused")
    assert shares(bill(catalog))["stopped"][0] == 2


def test_each_run_has_its_own_price_and_one_without_takes_the_newest(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}])
    begin(catalog, 1, 1)
    begin(catalog, 2, 1, price=3600)
    begin(catalog, 3, 1, price=7200)
    for run in (1, 2, 3):
        visit(catalog, "m001", run, started=10.0 * run, epoch=run)
    found = bill(catalog)
    assert found.models[0].cost.dollars == pytest.approx(2 + 1 + 2)
    assert found.models[0].cost.epochs == 3.0
    assert leaderboard(catalog)[0]["dollars"] == pytest.approx(5)


def test_energy_is_shown_where_it_is_known_and_said_to_be_estimated(tmp_path: Path):
    catalog = compared(tmp_path)
    assert "energy" not in printed(bill(catalog))
    catalog.add_event("engine", "spent", {"run": 1, "kwh": 0.4, "kwh_is_estimate": True})
    assert "0.05 kWh" in printed(bill(catalog))
    assert "energy is estimated" in printed(bill(catalog))


def test_the_units_of_an_epoch_are_those_of_the_plan(tmp_path: Path):
    catalog = compared(tmp_path)
    catalog.set_experiment(plan=json.dumps({"train_shards": 3, "valid_shards": 1}))
    assert bill(catalog).total.cost.epochs == 1.0


def test_an_experiment_that_never_ran_costs_nothing(tmp_path: Path):
    found = bill(create(tmp_path, [{"lr": 1}]))
    assert found.total == Group("total", 1, Cost(0.0, 0.0, None, None), 0.0)
    assert "under way" in printed(found)


def test_a_model_that_cannot_win_is_no_winner(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}])
    begin(catalog)
    visit(catalog, "m001")
    catalog.set_model("m001", status="failed", error="no")
    assert "winner" not in shares(bill(catalog))


def test_the_repeats_of_the_winning_config_have_won_unless_they_failed(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}])
    finish(catalog, "m001", {"accuracy": 0.9})
    finish(catalog, "m002", {"accuracy": 0.5})
    repeats = [("m001-r2", "finished"), ("m001-r3", "failed")]
    columns = "INSERT INTO models (model, config, status, plan_id) VALUES (?, '{}', ?, '')"
    catalog._db.executemany(columns, repeats)
    found = {model.model: model.group for model in bill(catalog).models}
    assert found == {"m001": "winner", "m001-r2": "winner", "m001-r3": "failed", "m002": "other finished"}


def test_a_bill_is_json(tmp_path: Path):
    found = json.loads(json.dumps(bill(compared(tmp_path, price=1)).describe(), allow_nan=False))
    assert set(found) == {"name", "procedure", "groups", "models", "total", "wall_seconds", "kwh_is_estimate"}
    assert found["groups"][0]["name"] == "winner"
    assert set(found["models"][0]) == {"model", "status", "group", "cost", "share"}


def test_the_bill_of_a_procedure_prints_as_two_tables(tmp_path: Path):
    catalog = compared(tmp_path, price=3600)
    spec = {**catalog.experiment()["spec"], "search": {"procedure": "asha"}}
    catalog.set_experiment(spec=json.dumps(spec))
    assert printed(bill(catalog)) == BILL


def test_of_many_models_the_dearest_are_printed(tmp_path: Path):
    text = printed(bill(trained(tmp_path, POSTURE, epochs=2)))
    assert "... and 6 more; --json lists them" in text


def test_without_a_price_the_leaderboard_is_what_it_was(tmp_path: Path):
    rows = leaderboard(compared(tmp_path, time=7200))
    assert not any("dollars" in row for row in rows)
    assert "cost" not in table_text(rows)


def test_with_a_price_the_leaderboard_says_what_each_model_cost(tmp_path: Path):
    rows = leaderboard(compared(tmp_path, price=360))
    assert {row["model"]: row["dollars"] for row in rows} == pytest.approx(
        {"m001": 0.25, "m002": 0.25, "m003": 0.25, "m004": 0.25, "m005": 0.0}
    )
    text = table_text(rows)
    assert "cost" in text
    assert "$0.25" in text


def table_text(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    print_table(rows, "accuracy", "max", "posture", Console(file=file))
    return file.getvalue()


BILL = """\
                        posture, asha: spent

  spent on         models     time    share   model-epochs     cost
 ───────────────────────────────────────────────────────────────────
  winner                1    2.5 s    12.5%              1    $2.50
  other finished        1    2.5 s    12.5%              1    $2.50
  stopped               1    2.5 s    12.5%              1    $2.50
  failed                1    2.5 s    12.5%              1    $2.50
  under way             1     0 ms     0.0%              0    $0.00
  outside units             10.0 s    50.0%              0   $10.00

  total                 5   20.0 s   100.0%              4   $20.00

wall time 10.0 s

  model   status      time   share   model-epochs    cost
 ─────────────────────────────────────────────────────────
  m002    finished   2.5 s   12.5%              1   $2.50
  m001    finished   2.5 s   12.5%              1   $2.50
  m003    stopped    2.5 s   12.5%              1   $2.50
  m004    diverged   2.5 s   12.5%              1   $2.50
  m005    waiting     0 ms    0.0%              0   $0.00
"""
