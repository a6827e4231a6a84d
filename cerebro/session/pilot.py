"""The pilot of an experiment: run once for a set of configs on a machine, and remembered."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cerebro.errors import ModelError, SpecError
from cerebro.execution.profiler import PilotReport, Profiler, as_profile
from cerebro.messages import PilotFailed
from cerebro.optimizer.rules.fuse import candidates
from cerebro.plan.cost import Profile
from cerebro.session.declaration import Declaration
from cerebro.session.planning import why_apart
from cerebro.storage.store import Store


def remembered_pilot(declaration: Declaration, store: Store) -> PilotReport | None:
    """What an earlier pilot of the same configs on the same machine found, if there was one.

    Raises:
        SpecError: a learner does not measure what decides.
    """
    found = store.remembered_pilot(_pilot_key(declaration))
    if found is None:
        return None
    profiles = {model: as_profile(values) for model, values in found["profiles"].items()}
    _check_metric(declaration, profiles)
    return PilotReport(profiles, {}, found["trials"])


def pilot(declaration: Declaration, profiler: Profiler, store: Store) -> PilotReport:
    """What a new pilot finds; it is remembered.

    Raises:
        ModelError: no config can be trained at all.
        SpecError: a learner does not measure what decides.
    """
    report = profiler.run(list(declaration.configs))
    profiles = _tried_together(declaration, profiler, report.profiles)
    report = replace(report, profiles=profiles, trials=profiler.trials)
    if not report.profiles:
        first: PilotFailed = next(iter(report.failures.values()))
        raise ModelError(f"no config can be trained; the first says: {first.error}\n{first.traceback}".rstrip())
    _check_metric(declaration, report.profiles)
    if not report.failures:
        profiles = {model: asdict(profile) for model, profile in report.profiles.items()}
        store.remember_pilot(_pilot_key(declaration), {"profiles": profiles, "trials": report.trials})
    return report


def _tried_together(
    declaration: Declaration, profiler: Profiler, profiles: Mapping[str, Profile]
) -> dict[str, Profile]:
    """The profiles, with what is gained by training models of equal signature in one pass."""
    if why_apart(declaration):
        return dict(profiles)
    found = candidates(profiles, declaration.repeats, len(profiler.workers))
    tried = profiler.run_together([groups[0] for groups in found.values()], profiles)
    by_signature = {profiles[model].signature: together for model, together in tried.items()}
    return {m: replace(profile, together=by_signature.get(profile.signature)) for m, profile in profiles.items()}


def _pilot_key(declaration: Declaration) -> dict[str, Any]:
    """What the costs of units depend on, and what trials of kernels show."""
    identity = {
        part: declaration.identity[part] for part in ("data", "search", "code", "device", "seed", "exact", "precision")
    }
    machine = [platform.node(), _processor(), os.cpu_count(), platform.python_version(), version("torch")]
    settings = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    return {**identity, "machine": machine, "settings": settings}


_SETTINGS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_")
"""Variables by which libraries choose their kernels."""


_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "cache size", "flags", "CPU ", "Features")


def _processor() -> str:
    """What the processor is, as far as the system tells."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(_PROCESSOR))


def _check_metric(declaration: Declaration, profiles: Mapping[str, Profile]) -> None:
    metric = declaration.select.metric
    for model, profile in profiles.items():
        if metric not in profile.metrics:
            raise SpecError(
                f"Experiment.metric: {metric!r} is not measured by {model}; "
                f"its Learner has {', '.join(profile.metrics)}"
            )
