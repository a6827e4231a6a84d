"""A snapshot as it looks on a terminal: a pure function from the value to a rich renderable."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cerebro.quantities import count_text, seconds_text
from cerebro.report.leaderboard import column_title, is_better, model_order
from cerebro.report.snapshot import ENDED, ModelProgress, Snapshot, WorkerProgress
from cerebro.report.wording import clean, clipped, number_text, value_text
from cerebro.spec.experiment import objective

ROWS = 20
_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 12
_STYLES = {"training": "cyan", "finished": "green", "failed": "red", "diverged": "red", "stopped": "yellow"}


def render(snapshot: Snapshot, rows: int = ROWS) -> RenderableType:
    """The experiment in one screen: totals, what is spent, at most `rows` models, and what the workers do."""
    shown = chosen(snapshot, rows)
    parts: list[RenderableType] = [_heading(snapshot)]
    if snapshot.budget:
        parts.append(Text(budget_text(snapshot), style="dim"))
    parts.append(_models(snapshot, shown))
    rest = _rest(snapshot, shown)
    if rest:
        parts.append(Text(rest, style="dim"))
    if snapshot.workers:
        parts.append(_workers(snapshot.workers))
    return Group(*parts)


def best_model(snapshot: Snapshot) -> ModelProgress | None:
    """The model with the best value of the deciding metric so far, failed ones aside."""
    best: ModelProgress | None = None
    for model in snapshot.models:
        if not has_value(model) or model.status in {"failed", "diverged"}:
            continue
        if best is None or is_better(model.value or 0.0, best.value or 0.0, snapshot.mode):
            best = model
    return best


def has_value(model: ModelProgress) -> bool:
    """Whether the deciding metric is known and a number."""
    return model.value is not None and math.isfinite(model.value)


def chosen(snapshot: Snapshot, rows: int) -> tuple[ModelProgress, ...]:
    """The models that are shown, by id: all, or those on workers, then the best, then the most advanced."""
    if len(snapshot.models) <= rows:
        return snapshot.models
    active = {worker.unit.model for worker in snapshot.workers if worker.unit is not None}
    sign = -1.0 if snapshot.mode == "max" else 1.0

    def interest(model: ModelProgress) -> tuple[bool, bool, float, int, tuple[int, str]]:
        value = sign * (model.value or 0.0) if has_value(model) else 0.0
        return model.model not in active, not has_value(model), value, -model.units_done, model_order(model.model)

    kept = {model.model for model in sorted(snapshot.models, key=interest)[:rows]}
    return tuple(model for model in snapshot.models if model.model in kept)


def sparkline(curve: Sequence[float], width: int = _CURVE) -> str:
    """The last `width` values as blocks of eight heights; blanks for NaN."""
    values = list(curve[-width:])
    finite = [value for value in values if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def totals_text(snapshot: Snapshot) -> str:
    """`units 120/800 · 1 min 03 s · about 4 min 10 s to go`."""
    parts = [
        f"units {snapshot.units_done:,}/{snapshot.units_total:,}",
        seconds_text(max(0.0, snapshot.elapsed_seconds)),
    ]
    if snapshot.status == "running" and snapshot.eta_seconds is not None:
        parts.append(f"about {seconds_text(snapshot.eta_seconds)} to go")
    return " · ".join(parts)


def budget_text(snapshot: Snapshot) -> str:
    """`budget 12 of 60 min, 20 %`, or nothing where there is none."""
    return f"budget {snapshot.budget}" if snapshot.budget else ""


def best_text(snapshot: Snapshot) -> str:
    """`best m003 accuracy 0.8123`, or nothing while no model has a value."""
    best = best_model(snapshot)
    if best is None:
        return ""
    return f"best {best.model} {column_title(objective(snapshot.metric))} {number_text(best.value)}"


def _heading(snapshot: Snapshot) -> RenderableType:
    line = Text(clean(snapshot.name), style="bold")
    line.append(f"  {column_title(objective(snapshot.metric))} ({snapshot.mode})", style="magenta")
    if snapshot.status != "running":
        line.append(f"  {snapshot.status}", style=_STYLES.get(snapshot.status, "yellow"))
    grid = Table.grid(padding=(0, 2))
    grid.add_row(line, _bar(snapshot.units_done, snapshot.units_total, 24), Text(totals_text(snapshot)))
    return grid


def _models(snapshot: Snapshot, shown: Sequence[ModelProgress]) -> Table:
    keys = tuple(dict.fromkeys(key for model in snapshot.models for key in model.config))
    extra = _other_metric(snapshot)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", width=1, no_wrap=True)
    table.add_column("model", no_wrap=True)
    for key in keys:
        table.add_column(Text(clean(key)), justify="right", overflow="ellipsis", no_wrap=True, max_width=14)
    for title in ("epochs", ""):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(Text(column_title(objective(snapshot.metric))), justify="right", no_wrap=True, style="bold")
    table.add_column("", width=_CURVE, no_wrap=True, style="magenta")
    if extra:
        table.add_column(Text(extra.removeprefix("valid.")), justify="right", no_wrap=True)
    table.add_column("status", overflow="ellipsis")  # the one that shrinks first
    best = best_model(snapshot)
    for model in shown:
        mark = Text("★" if best is not None and model.model == best.model else "", style="yellow")
        values: list[RenderableType] = [value_text(model.config[key]) if key in model.config else "" for key in keys]
        others: list[RenderableType] = [number_text(model.values.get(extra))] if extra else []
        table.add_row(
            mark, model.model, *(Text(str(value)) for value in values),
            _bar(model.units_done, model.units_total, 10), f"{model.epoch}/{snapshot.epochs}",
            number_text(model.value), sparkline(model.curve), *others, _status(model),
        )  # fmt: skip
    return table


def _other_metric(snapshot: Snapshot) -> str:
    """One more metric worth a column: the training loss, or else the first metric that is not the deciding one."""
    deciding = ".".join(objective(snapshot.metric))
    found = dict.fromkeys(name for model in snapshot.models for name in model.values if name != deciding)
    return "train.loss" if "train.loss" in found else next(iter(found), "")


def _status(model: ModelProgress) -> Text:
    text = f"{model.status}: {clipped(model.error, 60)}" if model.error else model.status
    return Text(text, style=_STYLES.get(model.status, "dim"), no_wrap=True, overflow="ellipsis")


def _bar(done: int, total: int, width: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done if total else 1, width=width)


def _rest(snapshot: Snapshot, shown: Sequence[ModelProgress]) -> str:
    count = len(snapshot.models) - len(shown)
    if not count:
        return ""
    visible = {model.model for model in shown}
    by_status: dict[str, int] = {}
    for model in snapshot.models:
        if model.model not in visible:
            by_status[model.status] = by_status.get(model.status, 0) + 1
    ended_first = sorted(by_status.items(), key=lambda item: item[0] not in ENDED)
    return f"... and {count} more ({', '.join(f'{number} {status}' for status, number in ended_first)})"


def _workers(workers: Sequence[WorkerProgress]) -> Text:
    line = Text(count_text(len(workers), "worker") + "  ", style="dim")
    for worker in workers[:8]:
        line.append(f"w{worker.worker} ", style="bold")
        line.append(f"{worker_text(worker)} ", style="cyan" if worker.unit else "dim")
        line.append(f"{worker.busy_share:.0%}   ", style="dim")
    if len(workers) > 8:
        mean = sum(worker.busy_share for worker in workers) / len(workers)
        line.append(f"... all {mean:.0%} busy", style="dim")
    return line


def worker_text(worker: WorkerProgress) -> str:
    """`m003 e2 s1` (model, epoch, shard), `m003 e2 v0` for a valid shard, `after m003 e2 s1`, `idle` or `lost`."""
    unit = worker.unit or worker.last
    if worker.lost:
        return "lost"
    if unit is None:
        return "idle"
    place = f"{unit.model} e{unit.epoch} {'s' if unit.kind == 'train' else 'v'}{unit.shard}"
    return place if worker.unit else f"after {place}"
