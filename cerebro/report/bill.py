"""What an experiment cost, and on what that was spent: the winner, the others, stopped and failed models."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cerebro.ids import model_index
from cerebro.quantities import dollars_text, seconds_text
from cerebro.report.leaderboard import ENDED_BADLY, Row, best_of, leaderboard
from cerebro.report.wording import MISSING
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.spending import RunCost, run_costs, units_per_epoch

WINNER, FINISHED, STOPPED, FAILED, UNDER_WAY = "winner", "other finished", "stopped", "failed", "under way"
OUTSIDE = "outside units"
"""What no model was charged with: workers that waited, and units that were lost with a worker or a driver."""
GROUPS = (WINNER, FINISHED, STOPPED, FAILED, UNDER_WAY)
_GROUP_OF_STATUS = {"finished": FINISHED, "paused": STOPPED, "stopped": STOPPED, **dict.fromkeys(ENDED_BADLY, FAILED)}
_MODELS_MAX = 10


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost."""

    seconds: float
    """Of workers."""
    epochs: float
    """Model-epochs."""
    dollars: float | None
    """None: no price is known."""
    kwh: float | None
    """None: the energy of some run is not known."""


@dataclass(frozen=True, slots=True)
class Group:
    """What was spent on several models, or on none."""

    name: str
    models: int
    cost: Cost
    share: float
    """Of the seconds of all workers, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What was spent on one model."""

    model: str
    status: str
    group: str
    cost: Cost
    share: float


@dataclass(frozen=True, slots=True)
class Bill:
    """What an experiment cost, over all its runs."""

    name: str
    procedure: str | None
    """The procedure whose decisions were paid for; None: the catalog does not say."""
    groups: tuple[Group, ...]
    models: tuple[ModelCost, ...]
    """The dearest first."""
    total: Group
    wall_seconds: float
    kwh_is_estimate: bool

    def describe(self) -> dict[str, Any]:
        """The bill as JSON."""
        return asdict(self)


def bill(reader: CatalogReader) -> Bill:
    """What an experiment cost so far, and on what that was spent.

    Workers are paid for from the beginning of a run to its end; what of that no unit took is `outside units`. Units
    that were run again after a crash are in the catalog once: the lost ones are `outside units` too.
    """
    experiment, rows, runs = reader.experiment(), leaderboard(reader), run_costs(reader)
    winner = best_of(rows, experiment["metric"])
    per_epoch = units_per_epoch(reader)
    costs = {row["model"]: _model_cost(row["model"], runs, per_epoch) for row in rows}
    outside = _outside(runs)
    seconds = sum(cost.seconds for cost in (*costs.values(), outside))
    models = [
        ModelCost(row["model"], row["status"], _group(row, winner), cost, _share(cost.seconds, seconds))
        for row in rows
        for cost in [costs[row["model"]]]
    ]
    groups = [_sum(name, [model.cost for model in models if model.group == name], seconds) for name in GROUPS]
    groups = [
        *(group for group in groups if group.models),
        Group(OUTSIDE, 0, outside, _share(outside.seconds, seconds)),
    ]
    return Bill(
        name=experiment["name"],
        procedure=_procedure(experiment["spec"]),
        groups=tuple(groups),
        models=tuple(sorted(models, key=lambda model: -model.cost.seconds)),
        total=Group("total", len(models), _added(group.cost for group in groups), 1.0 if seconds else 0.0),
        wall_seconds=sum(run.seconds for run in runs),
        kwh_is_estimate=any(run.kwh_is_estimate for run in runs),
    )


def print_bill(found: Bill, console: Console | None = None) -> None:
    """Print what was spent on each group, then the dearest models."""
    console = console or Console()
    console.print(group_table(found))
    console.print(model_table(found))


def group_table(found: Bill) -> Table:
    """What was spent on what, for a terminal."""
    by = f", {found.procedure}" if found.procedure else ""
    below = f"wall time {seconds_text(found.wall_seconds)}"
    below += "; energy is estimated" if found.total.cost.kwh is not None and found.kwh_is_estimate else ""
    shown = Table(title=Text(f"{found.name}{by}: spent"), caption=Text(below), box=SIMPLE_HEAD, show_footer=True)
    shown.caption_justify = "left"
    total = found.total
    _add_columns(shown, ["spent on", "models"], ["total", str(total.models)], total)
    for group in found.groups:
        count = str(group.models) if group.models else ""
        shown.add_row(group.name, count, *_cells(group.cost, group.share, total.cost))
    return shown


def model_table(found: Bill, limit: int = _MODELS_MAX) -> Table:
    """The dearest models, for a terminal."""
    rest = len(found.models) - limit
    below = Text(f"... and {rest} more; --json lists them") if rest > 0 else None
    shown = Table(caption=below, caption_justify="left", box=SIMPLE_HEAD)
    _add_columns(shown, ["model", "status"], ["", ""], found.total)
    for model in found.models[:limit]:
        style = "bold" if model.group == WINNER else ""
        shown.add_row(model.model, model.status, *_cells(model.cost, model.share, found.total.cost), style=style)
    return shown


def _add_columns(shown: Table, names: Sequence[str], footers: Sequence[str], total: Group) -> None:
    for name, footer in zip(names, footers, strict=True):
        shown.add_column(name, footer, justify="right" if name == "models" else "left", no_wrap=True)
    headings = ["time", "share", "model-epochs"]
    headings += ["cost"] if total.cost.dollars is not None else []
    headings += ["energy"] if total.cost.kwh is not None else []
    for heading, footer in zip(headings, _cells(total.cost, total.share, total.cost), strict=True):
        shown.add_column(heading, footer, justify="right", no_wrap=True)


def _cells(cost: Cost, share: float, total: Cost) -> list[str]:
    """The amounts that are known of the whole bill."""
    cells = [seconds_text(cost.seconds), f"{share:.1%}", f"{cost.epochs:,.1f}".removesuffix(".0")]
    if total.dollars is not None:
        cells.append(MISSING if cost.dollars is None else dollars_text(cost.dollars))
    if total.kwh is not None:
        cells.append(MISSING if cost.kwh is None else f"{cost.kwh:.3g} kWh")
    return cells


def _group(row: Row, winner: Row | None) -> str:
    """The group that a model belongs to; the repeats of the winner's config have won with it."""
    group = _GROUP_OF_STATUS.get(row["status"], UNDER_WAY)
    has_won = winner is not None and model_index(row["model"]) == model_index(winner["model"])
    return WINNER if has_won and group != FAILED else group


def _model_cost(model: str, runs: Sequence[RunCost], per_epoch: int) -> Cost:
    uses = [(run, run.models[model]) for run in runs if model in run.models]
    return Cost(
        seconds=sum(use.seconds for _, use in uses),
        epochs=sum(use.units for _, use in uses) / per_epoch,
        dollars=_sum_known([run.dollars_of(use.seconds) for run, use in uses], runs, "dollars"),
        kwh=_sum_known([run.kwh_of(use.seconds) for run, use in uses], runs, "kwh"),
    )


def _outside(runs: Sequence[RunCost]) -> Cost:
    idle = [max(0.0, run.worker_seconds - run.unit_seconds) for run in runs]
    return Cost(
        seconds=sum(idle),
        epochs=0.0,
        dollars=_sum_known([run.dollars_of(rest) for run, rest in zip(runs, idle, strict=True)], runs, "dollars"),
        kwh=_sum_known([run.kwh_of(rest) for run, rest in zip(runs, idle, strict=True)], runs, "kwh"),
    )


def _sum_known(amounts: Sequence[float | None], runs: Sequence[RunCost], what: str) -> float | None:
    """The sum; None unless every run says what it cost: a part would pass for the whole."""
    known = bool(runs) and all(getattr(run, what) is not None for run in runs)
    return sum(amount or 0.0 for amount in amounts) if known else None


def _sum(name: str, costs: Sequence[Cost], seconds: float) -> Group:
    cost = _added(costs)
    return Group(name, len(costs), cost, _share(cost.seconds, seconds))


def _added(costs: Iterable[Cost]) -> Cost:
    found = list(costs)
    dollars = [cost.dollars for cost in found if cost.dollars is not None]
    kwh = [cost.kwh for cost in found if cost.kwh is not None]
    return Cost(
        seconds=sum(cost.seconds for cost in found),
        epochs=sum(cost.epochs for cost in found),
        dollars=sum(dollars) if dollars else None,
        kwh=sum(kwh) if kwh else None,
    )


def _share(seconds: float, total: float) -> float:
    return seconds / total if total else 0.0


def _procedure(spec: Any) -> str | None:
    search = spec.get("search") if isinstance(spec, dict) else None
    name = search.get("procedure") if isinstance(search, dict) else None
    return name if isinstance(name, str) else None
