"""Fused passes: models of one architecture are trained in one pass, where a pilot says that enough is gained.

Groups are as many as the workers can share evenly. A pass is one unit of work, so that too few of them would leave
workers idle: whether that costs more than the pass gains is for the planner to see, who plays both plans through.

Before:

    Select  best valid.accuracy (max)
    └─ Hop  2 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Train  4 × MLP {lr}    100 parameters ...

After:

    Select  best valid.accuracy (max)
    └─ Hop  2 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Fuse   4 × MLP {lr}    one pass for 2, 1.8 × as fast   100 parameters ...
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cerebro.operators.fuse import fused_hop
from cerebro.optimizer.given import Given
from cerebro.optimizer.rule import Option
from cerebro.plan.cost import Profile, Together
from cerebro.plan.fusing import Fused, Fusing, group_name
from cerebro.plan.logical import Select
from cerebro.plan.physical import Hop, TrainGroup
from cerebro.quantities import bytes_text, count_text, seconds_text

GAIN_MIN, INEXACT_GAIN_MIN = 1.05, 1.1
"""What is gained must be more than what a pilot may be wrong by, which measures again what is near; and more for other
bits."""
MODELS_MAX = 32
"""More models in a pass gain nothing: what is saved is the same call for each."""
STATE_BYTES_MAX = 32 << 20
"""The states of a pass are to stay in the caches."""
BATCH_SECONDS_MAX = 0.025
"""A batch that takes longer is all arithmetic: there are no calls to be saved, and a pilot would take long."""
SHARED_BATCH_SECONDS_MAX = 0.1
"""The same where frozen parts run in each batch: once for all models of a pass."""


def fuse(root: Select, given: Given) -> Iterator[Option]:
    """All groups that gain enough, in passes; and of the other models, why they go alone."""
    hop, work = root.train, given.work
    assert isinstance(hop, Hop), "models are grouped in a physical plan"
    several = [group for group in hop.groups if len(group.configs) > 1]
    if not several:
        return
    apart = given.apart or ("" if given.means.fuse else "fuse=False")
    if apart:
        yield Option(f"{count_text(len(hop.workload.chains), 'model')} in passes", why_not=apart)
        return
    found = fusing(work.profiles, work.repeats, given.means.workers)
    if found.groups:
        fused = fused_hop(hop, found, work.repeats)
        yield Option(_text(several, found), replace(root, train=fused))
    for group in several:
        if group.profile.signature not in found.by_signature:
            yield Option(f"{group.kind()} in passes", why_not=why_alone(group, given.means.workers))


def why_alone(group: TrainGroup, workers: int) -> str:
    """Why models of one kind are not trained in one pass."""
    profile = group.profile
    together = profile.together
    if len(group.configs) <= workers:
        return "there is a worker for each of them"
    if profile.impure_tensor is not None:
        return f"two runs of the same batches give another {profile.impure_tensor}"
    if profile.train_batch_seconds > batch_seconds_max(profile):
        batch, at_most = seconds_text(profile.train_batch_seconds), seconds_text(batch_seconds_max(profile))
        return f"a batch takes {batch}, more than {at_most}: there are no calls to be saved"
    if 2 * profile.state_bytes > STATE_BYTES_MAX:
        return f"a state has {bytes_text(profile.state_bytes)}: those of a pass would not stay in the caches"
    if together is None:
        return "no pilot has tried it"
    if together.why_not:
        return together.why_not
    return f"{together.models} of them gain {together.train_gain:.2f} ×, less than {GAIN_MIN}"


def _text(groups: Sequence[TrainGroup], found: Fusing) -> str:
    fused = [(group, found.by_signature[s]) for group in groups if (s := group.profile.signature) in found.by_signature]
    parts = (f"{group.kind()} ({which})" for group, which in fused)
    return f"{', '.join(parts)} in {count_text(len(set(found.groups.values())), 'group')}"


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


def fusing(profiles: Mapping[str, Profile], repeats: Mapping[str, int], workers: int) -> Fusing:
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
        by_signature[signature] = Fused(max(per_repeat.values()) + 1, together, is_stacked(together))
    return Fusing(groups, by_signature)


def pays(together: Together) -> bool:
    """Whether the pilot found that models of this kind gain by going together."""
    return is_stacked(together) or _exact_gain(together) >= GAIN_MIN


def is_stacked(together: Together) -> bool:
    """Whether to take all models at once at the price of their bits: for a clear gain over the exact pass only."""
    return together.stacked_train_gain >= INEXACT_GAIN_MIN * max(1.0, _exact_gain(together))


def _exact_gain(together: Together) -> float:
    return 0.0 if together.why_not else together.train_gain


def _may_gain(profile: Profile) -> bool:
    return profile.impure_tensor is None and 0 < profile.train_batch_seconds <= batch_seconds_max(profile)


def batch_seconds_max(profile: Profile) -> float:
    """A batch that takes longer is not worth a pilot: where what is frozen runs in it, its arithmetic is saved too."""
    return SHARED_BATCH_SECONDS_MAX if any(part.note for part in profile.derived) else BATCH_SECONDS_MAX
