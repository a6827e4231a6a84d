"""Stage forks: models whose configs agree in their first epochs are trained once there, and part where they differ.

Which models go together in later epochs is cut anew, so that those that part late are in one group. To train once for
many leaves other workers idle, which may cost more than it saves where passes are quick: both are played through.

Before:

    Select  best valid.accuracy (max)
    └─ Hop  4 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       └─ Train  4 × CNN {lr}

After:

    Select  best valid.accuracy (max)
    └─ Hop  4 epochs · 4 models × 2 shards (+ 1 valid) on 2 local workers
       ├─ StageFork  4 models share epochs 1-2 as 1 training; else trained 4×
       └─ Train  4 × CNN {lr}
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cerebro.operators.fork import forked_hop, told
from cerebro.optimizer.given import Given
from cerebro.optimizer.rule import Option
from cerebro.plan.cost import Profile
from cerebro.plan.forking import Forking, epochs_text, training_name
from cerebro.plan.fusing import Fusing
from cerebro.plan.logical import Select
from cerebro.plan.physical import Hop
from cerebro.plan.workload import Pass, PassGain
from cerebro.quantities import count_text
from cerebro.spec.stages import stage_starts


@dataclass(frozen=True, slots=True)
class _Stem:
    """The trainings of one epoch: by name, the models that they are made for."""

    trainings: Mapping[str, Sequence[str]]

    @property
    def is_shared(self) -> bool:
        return any(len(models) > 1 for models in self.trainings.values())

    def count(self, models: Sequence[str]) -> int:
        """How many trainings are made for these models."""
        return sum(not set(models).isdisjoint(served) for served in self.trainings.values())


def fork(root: Select, given: Given) -> Iterator[Option]:
    """What models share of their first epochs, trained once; or all of it for each."""
    hop, work = root.train, given.work
    assert isinstance(hop, Hop), "models are grouped in a physical plan"
    pure = {c.model: work.configs[c.model] for c in hop.workload.chains if work.profiles[c.model].impure_tensor is None}
    stems = stems_of(pure, work.repeats)
    if not stems:
        return
    sharing = [model for models in stems[0].trainings.values() if len(models) > 1 for model in models]
    trainings = {epoch: stem.count(sharing) for epoch, stem in enumerate(stems, start=1)}
    text = f"{count_text(len(sharing), 'model')} share epochs {epochs_text(trainings)}"
    apart = given.apart or ("" if given.means.fork else "fork=False")
    if not apart and any(chain.kernel for chain in hop.workload.chains if chain.model in sharing):
        apart = "stacked passes give bits that depend on who is in them"
    if apart:
        yield Option(text, why_not=apart)
        return
    fusing = regrouped(hop.fusing, stems)
    forking = Forking(len(stems), passes_of(stems, fusing, work.profiles))
    forked = forked_hop(hop, forking, fusing, work.profiles, work.configs, work.repeats)
    forked = replace(forked, forks=(told(hop, forked, sharing, trainings),))
    yield Option(text, replace(root, train=forked), needed=True)
    yield Option("each trained from its first epoch", root, needed=True)


def stems_of(configs: Mapping[str, Mapping[str, Any]], repeats: Mapping[str, int]) -> list[_Stem]:
    """What is trained in each of the first epochs, up to the last in which something is shared."""
    last = max((start for config in configs.values() for start in stage_starts(config)), default=1)
    found = list[_Stem]()
    for epoch in range(1, last):
        trainings: dict[str, list[str]] = {}
        for model, config in configs.items():
            trainings.setdefault(training_name(config, repeats.get(model, 0), epoch), []).append(model)
        found.append(_Stem(trainings))
        if not found[-1].is_shared:
            return found[:-1]
    return found


def regrouped(fusing: Fusing, stems: Sequence[_Stem]) -> Fusing:
    """Groups as large as they were, with models that part late in one group."""
    places: dict[str, list[int]] = {}
    for stem in stems:
        for place, models in enumerate(stem.trainings.values()):
            for model in models:
                places.setdefault(model, []).append(place)
    kinds: dict[str, list[str]] = {}
    for model, group in fusing.groups.items():
        kinds.setdefault(group.rpartition("-")[0], []).append(model)
    groups: dict[str, str] = {}
    for models in kinds.values():
        sizes = Counter(fusing.groups[model] for model in models)
        ordered = iter(sorted(models, key=lambda model: places.get(model, [])))
        groups |= {next(ordered): group for group, size in sizes.items() for _ in range(size)}
    return replace(fusing, groups={model: groups[model] for model in fusing.groups})


def passes_of(stems: Sequence[_Stem], fusing: Fusing, profiles: Mapping[str, Profile]) -> dict[str, Pass]:
    """How each training is made, by its name: with others in the group of its first model, if that has one."""
    found = dict[str, Pass]()
    for stem in stems:
        groups: dict[str, list[str]] = {}
        for name, models in stem.trainings.items():
            groups.setdefault(fusing.groups.get(models[0], name), []).append(name)
        for group, names in groups.items():
            models = [model for name in names for model in stem.trainings[name]]
            fused = fusing.by_signature.get(profiles[models[0]].signature)
            share = len(names) / len(models)
            train = valid = 1.0
            if fused is not None:  # chains are priced as in the pilot's pass, and here are so many trainings in one
                gain = PassGain(max(2, fused.together.models), fused.train_gain, fused.valid_gain, 0.0)
                train, valid = (gain.share(kind, 1.0, len(names)) for kind in ("train", "valid"))
            shared = Pass(group, True, fused is not None, share * train, share * valid)
            found |= dict.fromkeys(names, shared)
    return found
