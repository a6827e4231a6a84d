import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cerebro.report.leaderboard import best_of, error_lines, leaderboard
from cerebro.report.table import table
from tests.report.catalogs import POSTURE, create, finish, trained


def order(rows: list[dict[str, Any]]) -> list[str]:
    return [row["model"] for row in rows]


def printed(rows: list[dict[str, Any]], metric: str = "accuracy", mode: str = "max", width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(rows, metric, mode, "posture"))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize(("mode", "expected"), [("max", ["m002", "m003", "m001"]), ("min", ["m001", "m003", "m002"])])
def test_the_first_row_is_the_best_in_either_mode(tmp_path: Path, mode: str, expected: list[str]):
    catalog = create(tmp_path, [{"lr": lr} for lr in (1, 2, 3)], mode=mode)
    for model, value in {"m001": 0.1, "m002": 0.9, "m003": 0.5}.items():
        finish(catalog, model, {"accuracy": value})
    rows = leaderboard(catalog)
    assert order(rows) == expected
    assert best_of(rows, "accuracy") is rows[0]


def test_a_row_holds_exactly_what_is_promised(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1e-3}])
    finish(catalog, "m001", {"accuracy": 0.123456789}, loss=0.25)
    catalog.add_seconds("m001", 2.5)
    assert leaderboard(catalog) == [
        {
            "model": "m001",
            "config": {"lr": 1e-3},
            "status": "finished",
            "epochs": 1,
            "metrics": {"train": {"loss": 0.25}, "valid": {"accuracy": 0.123456789}},
            "state_digest": "d" * 64,
            "seconds": 2.5,
            "badge": "exact",
        }
    ]


def test_the_split_of_the_metric_decides(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}], metric="train.loss", mode="min")
    finish(catalog, "m001", {"loss": 0.1}, loss=0.9)
    finish(catalog, "m002", {"loss": 0.9}, loss=0.1)
    assert order(leaderboard(catalog)) == ["m002", "m001"]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_models_without_a_value_come_after_and_failed_ones_last(tmp_path: Path, mode: str):
    catalog = create(tmp_path, [{"lr": lr} for lr in range(6)], mode=mode)
    catalog.set_model("m001", status="failed", error="ValueError: no")
    finish(catalog, "m002", {"accuracy": 1.0})
    catalog.set_model("m002", status="diverged", error=None)
    finish(catalog, "m003", {"accuracy": math.nan})
    finish(catalog, "m004", {"accuracy": math.inf})
    finish(catalog, "m006", {"accuracy": 0.5})
    rows = leaderboard(catalog)
    assert order(rows) == ["m006", "m003", "m004", "m005", "m001", "m002"]
    assert [row.get("error") for row in rows] == [None, None, None, None, "ValueError: no", ""]
    assert ["error" in row for row in rows] == [False] * 4 + [True] * 2


def test_nan_and_infinities_are_none_so_that_a_row_is_json(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}])
    finish(catalog, "m001", {"accuracy": math.nan, "loss": math.inf, "top": -math.inf})
    rows = leaderboard(catalog)
    assert rows[0]["metrics"]["valid"] == {"accuracy": None, "loss": None, "top": None}
    json.dumps(rows, allow_nan=False)
    assert best_of(rows, "accuracy") is None


def test_ties_are_in_the_order_of_the_models(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": lr} for lr in range(1001)], mode="min")
    for model in ("m1001", "m999", "m002"):
        finish(catalog, model, {"accuracy": 0.5})
    assert order(leaderboard(catalog))[:4] == ["m002", "m999", "m1001", "m001"]


def test_the_metrics_are_those_of_the_last_finished_epoch(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}], epochs=3)
    finish(catalog, "m001", {"accuracy": 0.9}, epoch=1)
    finish(catalog, "m001", {"accuracy": 0.7}, epoch=2, loss=0.2)
    catalog.add_metrics("m001", 3, "train", {"loss": 0.1})
    assert leaderboard(catalog)[0]["metrics"] == {"train": {"loss": 0.2}, "valid": {"accuracy": 0.7}}


def test_a_model_without_a_finished_epoch_has_no_metrics(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}])
    catalog.add_metrics("m001", 1, "train", {"loss": 0.1})
    assert leaderboard(catalog)[0]["metrics"] == {"train": {}, "valid": {}}


def test_the_table_shows_what_varies_and_puts_the_rest_below(tmp_path: Path):
    text = printed(leaderboard(trained(tmp_path, POSTURE, epochs=2)))
    header = text.splitlines()[2]
    assert "layers" in header
    assert "accuracy ↑" in header
    assert "optimizer" not in header
    assert "all models: optimizer=adamw" in text
    assert "m003 failed: RuntimeError: mat1 and mat2" in text
    assert "while building the head" not in text


def test_the_table_of_nothing_can_be_printed():
    assert "posture" in printed([])


def test_the_table_rounds_to_four_digits_and_takes_no_markup(tmp_path: Path):
    catalog = create(tmp_path, [{"name": "[red]x[/red]"}, {"name": "\x1b[2Jy"}], mode="min")
    finish(catalog, "m001", {"accuracy": 0.123456789})
    text = printed(leaderboard(catalog), mode="min")
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "0.1235" in text
    assert "0.12345" not in text
    assert "accuracy ↓" in text


def test_many_errors_are_counted_instead_of_listed(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": lr} for lr in range(40)])
    for row in catalog.models():
        catalog.set_model(row["model"], status="failed", error="no")
    assert len(error_lines(leaderboard(catalog))) == 11
    assert error_lines(leaderboard(catalog))[-1] == "... and 30 more"
