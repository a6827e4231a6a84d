"""The report of an experiment: one static HTML file, without scripts and without anything from elsewhere."""

import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from cerebro.quantities import bytes_text, count_text, seconds_text
from cerebro.report.charts import Dot, Line, curves, effect
from cerebro.report.gantt import gantt, timeline, utilisation
from cerebro.report.leaderboard import (
    ENDED_BADLY,
    Row,
    best_of,
    column_title,
    deciding_value,
    error_lines,
    leaderboard,
    metric_columns,
    model_order,
    summary,
)
from cerebro.report.style import CSS
from cerebro.report.svg import colour
from cerebro.report.wording import clipped, config_text, flat, number_text, split_keys, value_text
from cerebro.spec.experiment import objective
from cerebro.storage.catalog import CatalogReader, UnitRow

FILE = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_ROWS_MAX = 1000
_TIP_WIDTH = 160
_EFFECTS_MAX = 24
_ERRORS_MAX = 50
_NEAR = 5
"""This many models keep their colour among many learning curves."""


def write_page(folder: Path, output: Path | None = None) -> Path:
    """Write the report of the experiment in `folder` (to `report.html` in it by default); gives the file.

    Raises:
        StoreError: no experiment there.
    """
    destination = output or folder / FILE
    with closing(CatalogReader(folder)) as reader:
        text = page(reader)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=destination.parent, prefix=".report-", delete=False
    ) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, destination)
        except BaseException:
            os.unlink(file.name)
            raise
    return destination


def page(reader: CatalogReader) -> str:
    """The report as HTML; everything that users supplied is escaped in it."""
    seen = _seen(reader)
    sections = (
        _section("Leaderboard", _leaderboard(seen), summary(seen.rows)),
        _section("Learning curves", _curves(seen)),
        _section("Hyper-parameters", _effects(seen), "each dot is a model, a bar the median"),
        _section("Schedule", _schedule(seen)),
        _section("Workers", _workers(seen.units)),
        _section("Plan", _plan(seen.experiment["plan"])),
    )
    name = escape(seen.experiment["name"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} – Cerebro</title><style>{CSS}</style></head>\n<body>{_header(seen)}<main>"
        f"{''.join(sections)}</main>{_footer(seen)}</body></html>\n"
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the catalog says, read once."""

    experiment: Mapping[str, Any]
    rows: Sequence[Row]
    metrics: Sequence[Mapping[str, Any]]
    units: Sequence[UnitRow]
    configs: Mapping[str, Mapping[str, Any]]
    """Flat, by model."""
    varying: tuple[str, ...]
    constants: Mapping[str, Any]
    colours: Mapping[str, str]

    @property
    def best(self) -> Row | None:
        return best_of(self.rows, self.experiment["metric"])

    def is_best(self, model: str) -> bool:
        return self.best is not None and self.best["model"] == model

    def description(self, model: str) -> str:
        """What tells a model from the others, for a tooltip."""
        config = self.configs.get(model, {})
        varying = {key: config[key] for key in self.varying if key in config}
        return clipped(config_text(varying), _TIP_WIDTH)


def _seen(reader: CatalogReader) -> _Seen:
    rows = leaderboard(reader)
    ordered = sorted((row["model"] for row in rows), key=model_order)
    configs = {row["model"]: flat(row["config"]) for row in rows}
    varying, constants = split_keys([configs[model] for model in ordered])
    return _Seen(
        experiment=reader.experiment(),
        rows=rows,
        metrics=reader.metrics(),
        units=reader.units(),
        configs=configs,
        varying=varying,
        constants=constants,
        colours={model: colour(index, len(ordered)) for index, model in enumerate(ordered)},
    )


def _section(heading: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    beside = f' <span class="soft small">{escape(note)}</span>' if note else ""
    return f"<section><h2>{escape(heading)}{beside}</h2>{content}</section>\n"


def _header(seen: _Seen) -> str:
    experiment = seen.experiment
    metric, mode = column_title(objective(experiment["metric"])), experiment["mode"]
    parts = [escape(text) for text in (_dataset(experiment), f"{metric} ({mode})", experiment["status"]) if text]
    facts = [
        _best_fact(seen, metric),
        _fact(f"{len(seen.rows):,}", "models"),
        _fact(f"{experiment['epochs']:,}", "epochs"),
        _fact(f"{len(seen.units):,}", "units"),
        _fact(seconds_text(timeline(seen.units).seconds), "wall clock"),
        _fact(seconds_text(sum(unit.seconds for unit in seen.units)), "in units"),
        _fact(bytes_text(sum(unit.moved_bytes for unit in seen.units)), "moved"),
    ]
    fingerprint = _fingerprint(experiment.get("fingerprint"))
    return (
        f'<header><div><h1>{escape(experiment["name"])}</h1><p class="soft">{" · ".join(parts)}</p>'
        f'<div class="facts">{"".join(facts)}</div>{fingerprint}</div></header>\n'
    )


def _dataset(experiment: Mapping[str, Any]) -> str:
    data = experiment.get("data")
    return Path(data).name if isinstance(data, str) else ""


def _best_fact(seen: _Seen, metric: str) -> str:
    best = seen.best
    if best is None:
        return '<div class="fact best"><b>–</b><span>no model has a value yet</span></div>'
    value = number_text(deciding_value(best, seen.experiment["metric"]))
    return (
        f'<div class="fact best"><b>{escape(best["model"])} &nbsp;{escape(value)}</b>'
        f"<span>best {escape(metric)} {_badge(best['badge'])}</span>"
        f'<p class="mono">{escape(config_text(best["config"]))}</p></div>'
    )


def _fact(value: str, what: str) -> str:
    return f'<div class="fact"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def _badge(badge: str) -> str:
    return f'<span class="tag {"exact" if badge == "exact" else "caution"}">{escape(badge)}</span>'


def _fingerprint(fingerprint: Any) -> str:
    if not fingerprint:
        return ""
    text = config_text(fingerprint) if isinstance(fingerprint, Mapping) else value_text(fingerprint)
    return f'<p class="mono soft">numerics: {escape(text)}</p>'


def _leaderboard(seen: _Seen) -> str:
    metric = seen.experiment["metric"]
    columns = metric_columns(seen.rows, metric)
    has_notes = any(row["status"] != "finished" for row in seen.rows)
    arrow = "↑" if seen.experiment["mode"] == "max" else "↓"
    heads = [*seen.varying, *(column_title(column) for column in columns)]
    heads[len(seen.varying)] += f" {arrow}"
    cells = "".join(f"<th>{escape(head)}</th>" for head in ["#", *heads, "epochs", "time"])
    cells = cells.replace("<th>#</th>", '<th>#</th><th class="l">model</th>', 1) + '<th class="l">badge</th>'
    cells += '<th class="l">status</th>' if has_notes else ""
    rows = "".join(
        _leaderboard_row(seen, place, row, columns, has_notes)
        for place, row in enumerate(seen.rows[:_ROWS_MAX], start=1)
    )
    table = f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'
    if len(seen.rows) > _ROWS_MAX:
        more = len(seen.rows) - _ROWS_MAX
        table += f'<p class="soft small">... and {more:,} more: <code>cerebro leaderboard NAME --json</code></p>'
    errors = "".join(f'<li class="bad">{escape(line)}</li>' for line in error_lines(seen.rows, _ERRORS_MAX))
    table += f'<ul class="errors">{errors}</ul>' if errors else ""
    if seen.constants:
        table += f'<p class="soft small mono">all models: {escape(config_text(seen.constants))}</p>'
    return table


def _leaderboard_row(seen: _Seen, place: int, row: Row, columns: Sequence[tuple[str, str]], has_notes: bool) -> str:
    model, config = row["model"], seen.configs[row["model"]]
    swatch = f'<i class="swatch" style="background:{seen.colours[model]}"></i>'
    cells = [f"<td>{place}</td>", f'<td class="l">{swatch}{escape(model)}</td>']
    for key in seen.varying:
        cells.append(f"<td>{escape(clipped(value_text(config[key]), 60)) if key in config else ''}</td>")
    for index, (split, name) in enumerate(columns):
        style = ' class="key"' if index == 0 else ""
        cells.append(f"<td{style}>{number_text(row['metrics'].get(split, {}).get(name))}</td>")
    cells.append(f"<td>{row['epochs']}</td><td>{seconds_text(row['seconds'])}</td>")
    cells.append(f'<td class="l">{_badge(row["badge"])}</td>')
    if has_notes:
        style = "l bad" if row["status"] in ENDED_BADLY else "l"
        cells.append(f'<td class="{style}">{escape(row["status"])}</td>')
    return f"<tr{' class=best' if seen.is_best(model) else ''}>{''.join(cells)}</tr>"


def _curves(seen: _Seen) -> str:
    deciding = objective(seen.experiment["metric"])
    wanted = dict.fromkeys([deciding, ("train", "loss"), ("valid", "loss")])
    if all(name == "loss" for _, name in wanted):
        wanted |= dict.fromkeys(("valid", str(row["name"])) for row in seen.metrics[:50] if row["split"] == "valid")
    first, *others = list(wanted)[:3]
    wide = curves(_lines(seen, first), f"{first[0]} {first[1]}", width=1120, height=360)
    charts = [curves(_lines(seen, column), f"{column[0]} {column[1]}") for column in others]
    return (f'<div class="wide">{wide}</div>' if wide else "") + _grid("pair", charts)


def _lines(seen: _Seen, column: tuple[str, str]) -> list[Line]:
    values: dict[str, list[tuple[int, float]]] = {}
    for row in seen.metrics:
        if (row["split"], row["name"]) == column and row["value"] is not None and math.isfinite(row["value"]):
            values.setdefault(row["model"], []).append((row["epoch"], row["value"]))
    near = {row["model"] for row in seen.rows[:_NEAR]}
    return [
        Line(
            model,
            seen.description(model),
            seen.colours.get(model, "#888"),
            tuple(pairs),
            seen.is_best(model),
            model in near,
        )
        for model, pairs in values.items()
    ]


def _effects(seen: _Seen) -> str:
    metric = seen.experiment["metric"]
    ranked = [row for row in seen.rows if row["status"] not in ENDED_BADLY]
    values = {row["model"]: deciding_value(row, metric) for row in ranked}
    charts: list[str] = []
    for key in seen.varying[:_EFFECTS_MAX]:
        dots = [
            Dot(
                seen.configs[model][key], value, f"{model}  {seen.description(model)}", seen.colours[model],
                seen.is_best(model),
            )
            for model, value in values.items()
            if value is not None and key in seen.configs[model]
        ]  # fmt: skip
        charts.append(effect(key, dots, column_title(objective(metric))))
    return _grid("plots", charts)


def _grid(style: str, charts: Iterable[str]) -> str:
    drawn = [f"<div>{chart}</div>" for chart in charts if chart]
    return f'<div class="{style}">{"".join(drawn)}</div>' if drawn else ""


def _schedule(seen: _Seen) -> str:
    drawn = gantt(timeline(seen.units), seen.colours)
    return f'<div class="wide">{drawn}</div>' if drawn else ""


def _workers(units: Sequence[UnitRow]) -> str:
    uses = utilisation(units)
    if not uses:
        return ""
    rows = "".join(
        f'<tr><td class="l">w{use.worker}</td><td>{use.units:,}</td><td>{seconds_text(use.busy_seconds)}</td>'
        f'<td class="l"><span class="meter"><i style="width:{use.share:.1%}"></i></span>{use.share:.1%}</td>'
        f"<td>{bytes_text(use.moved_bytes)}</td><td>{bytes_text(use.peak_bytes)}</td></tr>"
        for use in uses
    )
    busy = sum(use.busy_seconds for use in uses)
    mean = sum(use.share for use in uses) / len(uses)
    total = (
        f'<tr class="best"><td class="l">{count_text(len(uses), "worker")}</td>'
        f"<td>{len(units):,}</td><td>{seconds_text(busy)}</td>"
        f'<td class="l"><span class="meter"><i style="width:{mean:.1%}"></i></span>{mean:.1%}</td>'
        f"<td>{bytes_text(sum(use.moved_bytes for use in uses))}</td>"
        f"<td>{bytes_text(max(use.peak_bytes for use in uses))}</td></tr>"
    )
    heads = (
        '<th class="l">worker</th><th>units</th><th>busy</th><th class="l">utilisation</th><th>moved</th><th>peak</th>'
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}{total}</tbody></table></div>'


def _plan(plan: Any) -> str:
    text = plan.get("text") if isinstance(plan, Mapping) else None
    return f"<pre>{escape(text)}</pre>" if isinstance(text, str) and text else ""


def _footer(seen: _Seen) -> str:
    created = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seen.experiment["created"]))
    plan = str(seen.experiment["plan_id"])
    return f'<footer class="soft small mono">begun {created} · plan {escape(plan)} · Cerebro</footer>'
