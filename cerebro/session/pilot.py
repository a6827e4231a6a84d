"""The pilot of an experiment: run once for a set of configs on a machine, and remembered."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from cerebro.errors import ModelError, SpecError
from cerebro.execution.profiler import PilotReport, Profiler, as_profile
from cerebro.messages import PilotFailed
from cerebro.optimizer.rules.fuse import candidates
from cerebro.plan.cost import Profile
from cerebro.session.declaration import Declaration
from cerebro.session.planning import why_apart
from cerebro.storage.store import Store


def remembered_profiles(declaration: Declaration, store: Store) -> dict[str, Profile] | None:
    """The profiles of an earlier pilot of the same configs on the same machine, if there was one.

    Raises:
        SpecError: a learner does not measure what decides.
    """
    remembered = store.remembered_pilot(_pilot_key(declaration))
    if remembered is None:
        return None
    profiles = {model: as_profile(values) for model, values in remembered.items()}
    _check_metric(declaration, profiles)
    return profiles


def pilot(declaration: Declaration, profiler: Profiler, store: Store) -> PilotReport:
    """Profiles of all models: remembered ones, or those of a new pilot.

    Raises:
        ModelError: no config can be trained at all.
        SpecError: a learner does not measure what decides.
    """
    remembered = remembered_profiles(declaration, store)
    if remembered is not None:
        return PilotReport(remembered, {})
    report = profiler.run(list(declaration.configs))
    report = replace(report, profiles=_tried_together(declaration, profiler, report.profiles))
    if not report.profiles:
        first: PilotFailed = next(iter(report.failures.values()))
        raise ModelError(f"no config can be trained; the first says: {first.error}\n{first.traceback}".rstrip())
    _check_metric(declaration, report.profiles)
    if not report.failures:
        profiles = {model: asdict(profile) for model, profile in report.profiles.items()}
        store.remember_pilot(_pilot_key(declaration), profiles)
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
    """What the costs of units depend on."""
    identity = {
        part: declaration.identity[part] for part in ("data", "search", "code", "device", "seed", "exact", "precision")
    }
    machine = [platform.node(), platform.processor(), os.cpu_count(), platform.python_version(), version("torch")]
    return {**identity, "machine": machine}


def _check_metric(declaration: Declaration, profiles: Mapping[str, Profile]) -> None:
    metric = declaration.select.metric
    for model, profile in profiles.items():
        if metric not in profile.metrics:
            raise SpecError(
                f"Experiment.metric: {metric!r} is not measured by {model}; "
                f"its Learner has {', '.join(profile.metrics)}"
            )
