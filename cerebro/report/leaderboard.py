"""The leaderboard: which model is best, as plain rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cerebro.quantities import count_text
from cerebro.report.wording import first_line
from cerebro.spec.experiment import objective
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.spending import known_price, run_costs

Mode = Literal["max", "min"]
Row = dict[str, Any]

ENDED_BADLY = frozenset({"failed", "diverged"})
ERRORS_MAX = 10


def leaderboard(reader: CatalogReader) -> list[Row]:
    """The models, best first, each with the metrics of its last finished epoch.

    A row holds model, config, status, epochs, `metrics` (`{"train": {...}, "valid": {...}}`), state_digest, seconds
    and badge, `error` for a model that failed or diverged, and `dollars` where a price is known. Everything in it is
    JSON: NaN and infinities are None. Models without a value of the deciding metric come after those with one, failed
    and diverged models last.
    """
    experiment = reader.experiment()
    models = reader.models()
    values = _last_metrics(reader.metrics(), {model["model"]: model["epochs"] for model in models})
    rows = [_row(model, values.get(model["model"], {})) for model in models]
    return ranked(_priced(rows, reader), experiment["metric"], experiment["mode"])


def ranked(rows: Sequence[Row], metric: str, mode: str) -> list[Row]:
    """The rows in the order of a leaderboard."""
    return sorted(rows, key=lambda row: _rank(row, metric, mode))


def deciding_value(row: Mapping[str, Any], metric: str) -> float | None:
    """The value of the deciding metric in a row of the leaderboard."""
    split, name = objective(metric)
    return row["metrics"].get(split, {}).get(name)


def is_better(value: float, other: float, mode: str) -> bool:
    """Whether `value` ranks before `other`."""
    return value > other if mode == "max" else value < other


def model_order(model: str) -> tuple[int, str]:
    """The key that sorts `m999` before `m1000`."""
    return len(model), model


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """The first row, if it has a value and did not fail."""
    if rows and rows[0]["status"] not in ENDED_BADLY and deciding_value(rows[0], metric) is not None:
        return rows[0]
    return None


def metric_columns(rows: Sequence[Row], metric: str) -> list[tuple[str, str]]:
    """The (split, name) of all metrics that any row has, the deciding one first, valid before train."""
    first = objective(metric)
    found = {(split, name) for row in rows for split, values in row["metrics"].items() for name in values}
    return [first, *sorted(found - {first}, key=lambda column: (column[0] != "valid", column))]


def column_title(column: tuple[str, str]) -> str:
    """`accuracy` for the valid split, `train.loss` for others."""
    split, name = column
    return name if split == "valid" else f"{split}.{name}"


def error_lines(rows: Sequence[Row], limit: int = ERRORS_MAX) -> list[str]:
    """`m003 failed: RuntimeError: ...` for each model that ended badly, at most `limit` of them."""
    bad = [row for row in rows if row["status"] in ENDED_BADLY]
    lines = [f"{row['model']} {row['status']}: {first_line(row.get('error')) or 'no message'}" for row in bad[:limit]]
    return lines if len(bad) <= limit else [*lines, f"... and {len(bad) - limit} more"]


def summary(rows: Sequence[Row]) -> str:
    """`16 models: 12 finished, 3 waiting, 1 failed`."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    parts = ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{count_text(len(rows), 'model')}: {parts}" if rows else "no models"


def _last_metrics(
    rows: Sequence[Mapping[str, Any]], epochs: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """By model and split, the metrics of the last epoch that the model finished."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in (row for row in rows if row["epoch"] == epochs.get(row["model"])):
        split = found.setdefault(row["model"], {}).setdefault(row["split"], {})
        split[row["name"]] = finite(row["value"])
    return found


def finite(value: Any) -> float | None:
    """The value as a number that JSON can hold, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _row(model: Mapping[str, Any], values: Mapping[str, dict[str, float | None]]) -> Row:
    kept = ("model", "config", "status", "epochs")
    row = {
        **{key: model[key] for key in kept},
        "metrics": {"train": {}, "valid": {}, **values},
        "state_digest": model["state_digest"],
        "seconds": model["seconds"],
        "badge": model["badge"],
    }
    return {**row, "error": model["error"] or ""} if model["status"] in ENDED_BADLY else row


def _priced(rows: list[Row], reader: CatalogReader) -> list[Row]:
    """The rows, each with what its model's units cost; as they are, where nobody gave a price."""
    if known_price(reader) is None:
        return rows
    runs = run_costs(reader)
    uses = ((run, model, use) for run in runs for model, use in run.models.items())
    dollars = dict.fromkeys((row["model"] for row in rows), 0.0)
    for run, model, use in uses:
        dollars[model] = dollars.get(model, 0.0) + (run.dollars_of(use.seconds) or 0.0)
    return [{**row, "dollars": dollars[row["model"]]} for row in rows]


def _rank(row: Row, metric: str, mode: str) -> tuple[int, float, tuple[int, str]]:
    order = model_order(row["model"])
    if row["status"] in ENDED_BADLY:
        return 2, 0.0, order
    value = deciding_value(row, metric)
    if value is None or not math.isfinite(value):
        return 1, 0.0, order
    return 0, -value if mode == "max" else value, order
