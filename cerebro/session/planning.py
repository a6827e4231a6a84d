"""Planning a run: what is known of an experiment goes to the optimizer; what comes back is shown and recorded."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cerebro.errors import StoreError
from cerebro.execution.forecast import forecast
from cerebro.execution.meter import fits
from cerebro.execution.policy import Policy
from cerebro.optimizer.given import Given, Means, Work
from cerebro.optimizer.optimizer import optimize
from cerebro.plan.cost import Cost, Profile
from cerebro.plan.explain import physical_text, why_text
from cerebro.plan.physical import PhysicalPlan
from cerebro.quantities import count_text
from cerebro.session.declaration import Declaration
from cerebro.session.room import free_disk_bytes, free_memory_bytes
from cerebro.spec.budget import Budget
from cerebro.storage.catalog import CatalogReader
from cerebro.storage.disk import DiskSpeed, disk_speed
from cerebro.storage.store import ExperimentFolder


def plan(declaration: Declaration, work: Work, means: Means) -> tuple[PhysicalPlan, Policy]:
    """The physical plan for what is to be done, and the policy that its cost was forecast with.

    Raises:
        PlanError: it needs more memory than there is.
    """
    given = Given(
        work=work,
        means=means,
        seed=declaration.spec.seed,
        apart=why_apart(declaration),
        memory_bytes=free_memory_bytes(),
        disk_bytes=free_disk_bytes(means.features),
        disk=_speed(work, means),
        data_bytes=_data_bytes(declaration),
    )
    optimized = optimize(declaration.select, given)
    return optimized.plan, optimized.policy


def _data_bytes(declaration: Declaration) -> int:
    splits = declaration.dataset.splits
    return sum(shard.bytes for split in ("train", "valid") for shard in splits.get(split, ()))


def _speed(work: Work, means: Means) -> DiskSpeed:
    """How fast the disk is, where that decides anything."""
    may_store = means.features.mode == "auto" and any(
        not part.note for profile in work.profiles.values() for part in profile.derived
    )
    return disk_speed(Path(means.features.folder)) if may_store and means.features.folder else DiskSpeed()


def why_apart(declaration: Declaration) -> str:
    """Why no two models of an experiment may make a visit in one pass; nothing where they may."""
    spec = declaration.spec
    if spec.independent:
        return "independent=True: each model sees other batches"
    if spec.order == "latin":
        return "order='latin': no two models visit a shard at the same time"
    return ""


def fits_text(budget: Budget, physical: PhysicalPlan, policy: Policy) -> str:
    """What of a plan a budget is enough for, in one line."""
    chain = physical.hop.workload.chains[0]
    visits = len(chain.train_seconds) + len(chain.valid_seconds)
    return fits(budget, forecast(physical.hop.workload, policy), physical.hop.workload.workers, visits)


def actual_text(physical: PhysicalPlan, reader: CatalogReader) -> str:
    """The physical plan as a tree, the measured cost beside the estimated one."""
    return physical_text(physical, actual_cost(reader))


def planned_text(folder: ExperimentFolder, why: bool = False) -> str:
    """The plan of an experiment's last run, with what it has cost by now; `why` adds what was weighed for it.

    Raises:
        StoreError: it was never run, or its catalog is damaged.
    """
    with closing(folder.reader()) as reader:
        record = reader.experiment()["plan"]
        if not record:
            raise StoreError(f"experiment {folder.path.name!r} has no plan yet: run it first")
        actual = f"\n{actual_cost(reader).text('actual')}" if reader.units() else ""
        changes = [_replanned_text(event["body"]["why"]) for event in reader.events() if event["kind"] == "replanned"]
    weighed = f"\n\n{record.get('why', 'nothing was noted')}" if why else ""
    return "\n".join([f"{record['text']}{actual}", *changes]) + weighed


def _replanned_text(why: Mapping[str, Any]) -> str:
    """What a run has changed of its plan, and what it measured."""
    models = f"{count_text(why['models'], why['architecture'])} go on {why['way']}"
    alone = f", by itself {why['alone']:.2f} ×" if "alone" in why else ""
    return f"replanned: {models}: in a pass a visit took {why['together']:.2f} × what it was to take by itself{alone}"


def actual_cost(reader: CatalogReader) -> Cost:
    """What an experiment has cost so far: wall seconds over all its runs, peak of all workers, bytes moved and read."""
    runs = reader.query(
        "SELECT MAX(started + seconds) - MIN(started) AS seconds, SUM(moved_bytes) AS moved, "
        "SUM(read_bytes) AS read FROM units GROUP BY run"
    )
    peaks = reader.query("SELECT MAX(peak_bytes) AS peak FROM units GROUP BY run, worker")
    return Cost(
        seconds=sum(run["seconds"] for run in runs),
        peak_bytes=sum(row["peak"] for row in peaks),
        moved_bytes=sum(run["moved"] for run in runs),
        read_bytes=sum(run["read"] for run in runs),
    )


def plan_record(physical: PhysicalPlan, profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """What the catalog keeps of a plan."""
    chain = physical.hop.workload.chains[0]
    return {
        "text": physical_text(physical),
        "why": why_text(physical),
        "workers": physical.hop.workload.workers,
        "engine": physical.hop.engine,
        "policy": physical.hop.policy,
        "train_shards": len(chain.train_seconds),
        "valid_shards": len(chain.valid_seconds),
        "seconds": physical.cost.seconds,
        "lower_bound_seconds": physical.lower_bound_seconds,
        "peak_bytes": physical.cost.peak_bytes,
        "moved_bytes": physical.cost.moved_bytes,
        "read_bytes": physical.cost.read_bytes,
        "unit_seconds": {
            chain.model: [sum(chain.train_seconds), sum(chain.valid_seconds)] for chain in physical.hop.workload.chains
        },
        "architectures": {model: profile.architecture for model, profile in profiles.items()},
    }
