"""The leaderboard as a table for a terminal."""

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cerebro.quantities import dollars_text, seconds_text
from cerebro.report.leaderboard import ENDED_BADLY, Row, best_of, column_title, error_lines, metric_columns
from cerebro.report.wording import config_text, flat, number_text, split_keys, value_text

DETAILS = ("cost", "valid", "badge", "train")
"""What is shown beside the configs and the deciding metric, the most wanted first."""
_FACTS: Mapping[str, Callable[[Row], str]] = {
    "epochs": lambda row: str(row["epochs"]),
    "time": lambda row: seconds_text(row["seconds"]),
    "cost": lambda row: dollars_text(row["dollars"]),
    "badge": lambda row: row["badge"],
    "status": lambda row: row["status"],
}
_UNLIMITED = 10_000


def table(rows: Sequence[Row], metric: str, mode: str, title: str, detail: int = len(DETAILS)) -> Table:
    """The leaderboard for a terminal: one column for each hyper-parameter that varies, the constants below.

    `detail` says how many of DETAILS are shown beside the deciding metric.
    """
    configs = [flat(row["config"]) for row in rows]
    varying, constants = split_keys(configs)
    below = [f"all models: {config_text(constants)}"] if constants else []
    caption = Text("\n".join(below + error_lines(rows)))
    shown = Table(
        title=Text(title), caption=caption if caption.plain else None, caption_justify="left", box=SIMPLE_HEAD
    )
    decides, *others = metric_columns(rows, metric)
    parts = DETAILS[:detail]
    valid = [column for column in others if column[0] == "valid" and "valid" in parts]
    train = [column for column in others if column[0] == "train" and "train" in parts]
    columns = [decides, *valid, *train]
    has_notes = any(row["status"] != "finished" for row in rows)
    facts = _cost_facts(rows) if "cost" in parts else []
    facts += [*(["badge"] if "badge" in parts else []), *(["status"] if has_notes else [])]
    _add_columns(shown, varying, columns, mode, facts)
    best = best_of(rows, metric)
    for place, (row, config) in enumerate(zip(rows, configs, strict=True), start=1):
        cells = [str(place), row["model"], *(value_text(config[key]) if key in config else "" for key in varying)]
        cells += [_measure_text(row, split, name) for split, name in columns]
        cells += [_FACTS[fact](row) for fact in facts]
        shown.add_row(*(Text(cell) for cell in cells), style=_row_style(row, row is best))
    return shown


def print_table(rows: Sequence[Row], metric: str, mode: str, title: str, console: Console | None = None) -> None:
    """Print the leaderboard with as many columns as the terminal is wide; all of them where there is no terminal."""
    console = console or Console()
    shown = table(rows, metric, mode, title)
    for detail in range(len(DETAILS), -1, -1):
        shown = table(rows, metric, mode, title, detail)
        width = Measurement.get(console, console.options.update(max_width=_UNLIMITED), shown).maximum
        if not console.is_terminal:
            console.width = max(width, console.width)
        if width <= console.width:
            break
    console.print(shown)


def _add_columns(
    shown: Table, varying: Sequence[str], columns: Sequence[tuple[str, str]], mode: str, facts: Sequence[str]
) -> None:
    shown.add_column("#", justify="right", no_wrap=True)
    shown.add_column("model", no_wrap=True)
    for key in varying:
        shown.add_column(Text(key), justify="right", no_wrap=True)
    for index, column in enumerate(columns):
        arrow = (" ↑" if mode == "max" else " ↓") if index == 0 else ""
        style = "bold green" if index == 0 else None
        heading = Text(column_title(column) + arrow)
        shown.add_column(heading, justify="right", style=style, header_style=style or "", no_wrap=True)
    for fact in facts:
        shown.add_column(fact, justify="right" if fact in ("epochs", "time", "cost") else "left", no_wrap=True)


def _cost_facts(rows: Sequence[Row]) -> list[str]:
    """What a model cost: in dollars too, where a price is known."""
    return ["epochs", "time", *(["cost"] if rows and "dollars" in rows[0] else [])]


def _measure_text(row: Row, split: str, name: str) -> str:
    """`0.8123`, or `0.8123 ± 0.0045` for the mean of several repeats."""
    text, stderr = number_text(row["metrics"].get(split, {}).get(name)), row.get("stderr", {}).get(split, {}).get(name)
    return text if stderr is None else f"{text} ± {stderr:.2g}"


def _row_style(row: Row, is_best: bool) -> str:
    if is_best:
        return "bold"
    return "red" if row["status"] in ENDED_BADLY else ""
