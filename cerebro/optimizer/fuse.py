"""Which models are trained in one pass: by what a pilot of a few batches says is gained, and never for less than 1.1.

Groups are as many as the workers can share evenly. A pass is one unit of work, so that too few of them would leave
workers idle: whether that costs more than the pass gains is for the planner to see, who plays both plans through.
"""

from collections.abc import Mapping

from cerebro.plan.cost import Profile, Together
from cerebro.plan.fusing import Fused, Fusing, group_name

GAIN_MIN = 1.1
"""What is gained must be more than what a pilot of a few batches may be wrong by."""
MODELS_MAX = 32
"""More models in a pass gain nothing: what is saved is the same call for each."""
STATE_BYTES_MAX = 32 << 20
"""The states of a pass are to stay in the caches."""
BATCH_SECONDS_MAX = 0.025
"""A batch that takes longer is all arithmetic: there are no calls to be saved, and a pilot would take long."""


def candidates(
    profiles: Mapping[str, Profile], repeats: Mapping[str, int], workers: int
) -> dict[str, list[tuple[str, ...]]]:
    """By signature the groups of models that could go together, all but those of one model.

    `repeats` says which of the seeds of its config each model is.
    """
    alike: dict[tuple[str, int], list[str]] = {}
    for model, profile in profiles.items():
        if _may_gain(profile):
            alike.setdefault((profile.signature, repeats.get(model, 0)), []).append(model)
    found: dict[str, list[tuple[str, ...]]] = {}
    for (signature, _), models in alike.items():
        count = passes(len(models), profiles[models[0]].state_bytes, workers)
        groups = [tuple(models[number::count]) for number in range(count)]
        if len(groups[0]) > 1:
            found.setdefault(signature, []).extend(groups)
    return found


def passes(models: int, state_bytes: int, workers: int) -> int:
    """Into how many groups so many models are shared out: one for each worker, or twice as many, ..."""
    at_most = max(1, min(MODELS_MAX, STATE_BYTES_MAX // max(1, state_bytes)))
    needed = -(-models // at_most)
    return min(models, -(-needed // workers) * workers)


def fuse(profiles: Mapping[str, Profile], repeats: Mapping[str, int], workers: int) -> Fusing:
    """The groups that gain enough."""
    groups, by_signature = dict[str, str](), dict[str, Fused]()
    for signature, found in candidates(profiles, repeats, workers).items():
        together = profiles[found[0][0]].together
        if together is None or not pays(together):
            continue
        per_repeat: dict[int, int] = {}
        for models in found:
            repeat = repeats.get(models[0], 0)
            number = per_repeat[repeat] = per_repeat.get(repeat, -1) + 1
            groups |= dict.fromkeys(models, group_name(signature, repeat, number))
        by_signature[signature] = Fused(max(per_repeat.values()) + 1, together)
    return Fusing(groups, by_signature)


def pays(together: Together) -> bool:
    """Whether the pilot found that models of this kind gain by going together."""
    return not together.why_not and together.train_gain >= GAIN_MIN


def _may_gain(profile: Profile) -> bool:
    return (
        profile.impure_tensor is None and not profile.derived and 0 < profile.train_batch_seconds <= BATCH_SECONDS_MAX
    )
