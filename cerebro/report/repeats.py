"""The leaderboard by config: the repeats of one as a single row, with their mean and its standard error."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cerebro.report.leaderboard import ENDED_BADLY, Row, finite, leaderboard, ranked
from cerebro.storage.catalog import CatalogReader

_BADGES = ("exact", "recorded", "best effort")
Values = Mapping[str, dict[str, float | None]]
"""Metrics by split and name."""


def config_leaderboard(reader: CatalogReader) -> list[Row]:
    """The leaderboard with one row for each config; those that were trained once are as in `leaderboard`.

    A row of several repeats is called by the first of them, and its state is that one's. `metrics` are means over the
    repeats after the last epoch that all of them have finished, `stderr` the standard errors of these means, `repeats`
    how many there are, and `models` what they are called; `seconds` and `dollars` are sums.
    """
    experiment, groups = reader.experiment(), dict[str, list[Row]]()
    for row in sorted(leaderboard(reader), key=lambda row: (len(row["model"]), row["model"])):
        groups.setdefault(row["model"].partition("-")[0], []).append(row)
    if all(len(rows) == 1 for rows in groups.values()):
        return leaderboard(reader)
    measured = _measured(reader)
    rows = [rows[0] if len(rows) == 1 else _together(rows, measured) for rows in groups.values()]
    return ranked(rows, experiment["metric"], experiment["mode"])


def _measured(reader: CatalogReader) -> dict[tuple[str, int], Values]:
    """The metrics of each model after each epoch."""
    found = dict[tuple[str, int], dict[str, dict[str, float | None]]]()
    for row in reader.metrics():
        values = found.setdefault((row["model"], row["epoch"]), {"train": {}, "valid": {}})
        values.setdefault(row["split"], {})[row["name"]] = finite(row["value"])
    return dict(found)


def _together(rows: Sequence[Row], measured: Mapping[tuple[str, int], Values]) -> Row:
    first, epochs = rows[0], min(row["epochs"] for row in rows)
    found = [measured.get((row["model"], epochs), {"train": {}, "valid": {}}) for row in rows]
    bad = next((row for row in rows if row["status"] in ENDED_BADLY), None)
    statuses = {row["status"] for row in rows}
    row: Row = {
        **first,
        "status": bad["status"] if bad else first["status"] if len(statuses) == 1 else "training",
        "epochs": epochs,
        "metrics": _over(found, _mean),
        "seconds": math.fsum(row["seconds"] for row in rows),
        "badge": max((row["badge"] for row in rows), key=_BADGES.index),
        "repeats": len(rows),
        "stderr": _over(found, _stderr),
        "models": [row["model"] for row in rows],
    }
    if bad:
        row["error"] = f"{bad['model']}: {bad['error']}"
    if "dollars" in first:
        row["dollars"] = math.fsum(row["dollars"] for row in rows)
    return row


def _over(found: Sequence[Values], of: Any) -> dict[str, dict[str, float | None]]:
    """What `of` gives for each metric of the repeats; None where one of them has no number."""
    shown = dict[str, dict[str, float | None]]()
    for split, names in found[0].items():
        columns = {name: [each.get(split, {}).get(name) for each in found] for name in names}
        shown[split] = {
            name: None if any(value is None for value in values) else of(values) for name, values in columns.items()
        }
    return shown


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))
