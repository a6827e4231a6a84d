"""From the logical plan and the pilot's profiles to a physical plan with its cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.errors import PlanError
from cerebro.execution.forecast import Forecast, forecast
from cerebro.execution.meter import fits
from cerebro.execution.policies import make_policy
from cerebro.execution.policy import Policy
from cerebro.operators.fuse import fused_hop
from cerebro.operators.hop import Goal, hop, moved_bytes
from cerebro.optimizer.fuse import fuse
from cerebro.plan.cost import Cost, Profile
from cerebro.plan.features import Features
from cerebro.plan.fusing import Fusing
from cerebro.plan.node import Node, tree
from cerebro.plan.physical import Hop, Materialize, PhysicalPlan, TrainGroup
from cerebro.plan.workload import Done
from cerebro.quantities import bytes_text, seconds_text
from cerebro.session.declaration import Declaration
from cerebro.session.deriving import derive
from cerebro.spec.budget import Budget
from cerebro.storage.catalog import CatalogReader

WORKER_BYTES = 300 << 20
"""What a worker needs before it holds any model: Python and torch."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a plan may use."""

    workers: int
    policy: str
    engine: str
    features: Features = field(default_factory=Features)
    """What is to be done about derived columns."""
    fuse: bool = True
    """Whether models may be trained in one pass."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be trained, by model."""

    configs: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Profile]
    goals: Mapping[str, Goal] = field(default_factory=dict[str, Goal])
    """How far, where that is not the end of the experiment."""
    done: Mapping[str, Done] = field(default_factory=dict[str, Done])
    """How far they have come."""
    repeats: Mapping[str, int] = field(default_factory=dict[str, int])
    """Which of the seeds of its config each is, where that is not the first."""


def plan(declaration: Declaration, work: Work, means: Means) -> tuple[PhysicalPlan, Policy]:
    """The physical plan for what is to be done, and the policy that its cost was forecast with.

    Raises:
        PlanError: it needs more memory than there is.
    """
    deriving = derive(
        {model: work.profiles[model] for model in work.configs if model in work.profiles},
        _epochs_left(declaration, work),
        declaration.train.scan,
        means.features,
        means.workers,
    )
    operator = hop(
        replace(declaration.train, configs=work.configs),
        deriving.profiles,
        workers=means.workers,
        policy=means.policy,
        engine=means.engine,
        done=work.done,
        goals=work.goals,
    )
    operator = replace(operator, derived=deriving.nodes)
    operator, policy, expected = _played(operator, declaration, means)
    fusing = fuse(deriving.profiles, work.repeats, means.workers) if means.fuse and can_fuse(declaration) else Fusing()
    if fusing.groups:
        fused = _played(fused_hop(operator, fusing, deriving.profiles, work.repeats), declaration, means)
        if fused[2].makespan_seconds < expected.makespan_seconds:
            operator, policy, expected = fused
        else:
            fusing = Fusing()
    peak_bytes = _peak_bytes(operator, work.profiles) + means.workers * deriving.memory_bytes
    cost = Cost(expected.makespan_seconds, peak_bytes, moved_bytes(operator))
    _check_memory(cost, work.profiles, means)
    root = replace(declaration.select, train=operator)
    return PhysicalPlan(root, operator, cost, expected.lower_bound_seconds, deriving.features, fusing), policy


def _played(operator: Hop, declaration: Declaration, means: Means) -> tuple[Hop, Policy, Forecast]:
    """An operator with its policy, and the schedule that comes of it."""
    policy = make_policy(means.policy, operator.workload, declaration.spec.seed)
    return operator, policy, forecast(operator.workload, policy)


def can_fuse(declaration: Declaration) -> bool:
    """Whether models of an experiment see the same batches at the same time, on the CPU."""
    spec = declaration.spec
    return not spec.independent and spec.order != "latin" and declaration.identity["device"] == "cpu"


def _epochs_left(declaration: Declaration, work: Work) -> dict[str, int]:
    usual = Goal(declaration.train.epochs)
    return {
        model: max(0, work.goals.get(model, usual).until - work.done.get(model, Done()).epoch + 1)
        for model in work.configs
    }


def physical_text(physical: PhysicalPlan) -> str:
    """The physical plan as a tree with its estimates."""
    return tree(physical.root, lambda node: _estimate(node, physical))


def fits_text(budget: Budget, physical: PhysicalPlan, policy: Policy) -> str:
    """What of a plan a budget is enough for, in one line."""
    chain = physical.hop.workload.chains[0]
    visits = len(chain.train_seconds) + len(chain.valid_seconds)
    return fits(budget, forecast(physical.hop.workload, policy), physical.hop.workload.workers, visits)


def actual_text(physical: PhysicalPlan, reader: CatalogReader) -> str:
    """The physical plan as a tree, the measured cost beside the estimated one."""
    actual = actual_cost(reader)

    def note(node: Node) -> str:
        estimate = _estimate(node, physical)
        return f"{estimate}   |   {actual.text('actual')}" if node is physical.root else estimate

    return tree(physical.root, note)


def actual_cost(reader: CatalogReader) -> Cost:
    """What an experiment has cost so far: wall seconds over all its runs, peak of all workers, bytes moved."""
    runs = reader.query(
        "SELECT MAX(started + seconds) - MIN(started) AS seconds, SUM(moved_bytes) AS moved FROM units GROUP BY run"
    )
    peaks = reader.query("SELECT MAX(peak_bytes) AS peak FROM units GROUP BY run, worker")
    return Cost(
        seconds=sum(run["seconds"] for run in runs),
        peak_bytes=sum(row["peak"] for row in peaks),
        moved_bytes=sum(run["moved"] for run in runs),
    )


def plan_record(physical: PhysicalPlan, profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """What the catalog keeps of a plan."""
    chain = physical.hop.workload.chains[0]
    return {
        "text": physical_text(physical),
        "workers": physical.hop.workload.workers,
        "engine": physical.hop.engine,
        "policy": physical.hop.policy,
        "train_shards": len(chain.train_seconds),
        "valid_shards": len(chain.valid_seconds),
        "seconds": physical.cost.seconds,
        "lower_bound_seconds": physical.lower_bound_seconds,
        "peak_bytes": physical.cost.peak_bytes,
        "moved_bytes": physical.cost.moved_bytes,
        "unit_seconds": {
            chain.model: [sum(chain.train_seconds), sum(chain.valid_seconds)] for chain in physical.hop.workload.chains
        },
        "architectures": {model: profile.architecture for model, profile in profiles.items()},
    }


def _estimate(node: Node, physical: PhysicalPlan) -> str:
    if node is physical.root:
        return physical.cost.text("est")
    if node is physical.hop:
        hop = physical.hop
        return f"order {hop.order}, {hop.policy}; at best {seconds_text(physical.lower_bound_seconds)}"
    return node.note() if isinstance(node, TrainGroup | Materialize) else ""


def _peak_bytes(operator: Hop, profiles: Mapping[str, Profile]) -> int:
    """The workers at their pilots' peak; the present state of each model, and a spare one for each worker."""
    peak = max((profile.peak_bytes for profile in profiles.values()), default=0) or WORKER_BYTES
    largest = max((profile.state_bytes for profile in profiles.values()), default=0)
    states = sum(profiles[chain.model].state_bytes for chain in operator.workload.chains)
    return operator.workload.workers * (peak + largest) + states


def _check_memory(cost: Cost, profiles: Mapping[str, Profile], means: Means) -> None:
    available = _available_bytes()
    if available is None or cost.peak_bytes <= available:
        return
    largest = max(profiles.values(), key=lambda profile: profile.state_bytes)
    raise PlanError(
        f"the plan needs {bytes_text(cost.peak_bytes)} of memory on {means.workers} workers, and "
        f"{bytes_text(available)} are free (the largest state, of {largest.architecture}, has "
        f"{bytes_text(largest.state_bytes)}): use fewer workers or fewer models at once"
    )


def _available_bytes() -> int | None:
    """Memory that can be had without swapping, where the system says."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
