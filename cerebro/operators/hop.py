"""Model hopper parallelism (Cerebro, PVLDB 13(11), 2020, section 4): the models move, the data stay.

Cuts a logical `Train` into one chain of units for each model. Bytes moved: each unit copies its state in, and each
train unit copies it out again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cerebro.ids import model_index
from cerebro.plan.cost import Profile
from cerebro.plan.logical import Train, varying_names
from cerebro.plan.order import visit_orders
from cerebro.plan.physical import Hop, TrainGroup
from cerebro.plan.workload import Chain, Done, ShardMemory, Workload


@dataclass(frozen=True, slots=True)
class Goal:
    """How far a model is trained for now."""

    until: int
    """The epoch at whose end it pauses."""
    due: float = 0.0
    """What decides which model goes first: earlier ones do."""


def hop(
    train: Train,
    profiles: Mapping[str, Profile],
    *,
    workers: int,
    policy: str,
    engine: str,
    done: Mapping[str, Done] | None = None,
    goals: Mapping[str, Goal] | None = None,
    memory: ShardMemory | None = None,
) -> Hop:
    """The physical operator for `train`; models without a profile (their pilot failed) are left out.

    `goals` says how far models go where that is not the end of the experiment, `memory` what may be held of shards.
    """
    models = {model: config for model, config in train.configs.items() if model in profiles}
    usual, goals = Goal(train.epochs), goals or {}
    chains = tuple(chain(train, model, profiles[model], goals.get(model, usual)) for model in models)
    beginning = beginning_seconds([profiles[model] for model in models])
    workload = Workload(chains, workers, done=dict(done or {}), beginning_seconds=beginning, memory=memory)
    return Hop(_groups(models, profiles), workload, policy, train.order, engine)


def beginning_seconds(profiles: Sequence[Profile]) -> float:
    """What each worker takes once: every model is built on each that it comes to, and the first of a kind is slower."""
    first = {profile.signature: profile.first_seconds for profile in profiles}
    each = (profile.build_seconds + profile.trace_seconds + profile.noting_seconds for profile in profiles)
    return sum(each) + sum(first.values())


def moved_bytes(hop: Hop) -> int:
    """Bytes of states that the hops copy, from the first unit to the last."""
    total = 0
    for chain, state in zip(hop.workload.chains, _state_bytes(hop), strict=True):
        train_units = chain.epochs * len(chain.train_seconds)
        units = train_units + chain.epochs * len(chain.valid_seconds)
        total += (units - 1 + train_units) * state  # the first unit starts from the initialisation
    return total


def _state_bytes(hop: Hop) -> list[int]:
    by_model = {model: group.profile.state_bytes for group in hop.groups for model in group.configs}
    return [by_model[chain.model] for chain in hop.workload.chains]


def chain(train: Train, model: str, profile: Profile, goal: Goal) -> Chain:
    """The units of one model; its number decides its place in a latin square."""
    scan = train.scan
    return Chain(
        model=model,
        epochs=goal.until,
        train_seconds=tuple(profile.train_seconds(rows) for rows in scan.train_rows),
        valid_seconds=tuple(profile.valid_seconds(rows) for rows in scan.valid_rows),
        orders=visit_orders(train.order, train.seed, goal.until, len(scan.train_rows), model_index(model)),
        due=goal.due,
    )


def _groups(models: Mapping[str, Mapping[str, object]], profiles: Mapping[str, Profile]) -> tuple[TrainGroup, ...]:
    """Models of equal signature together, in order of their first model."""
    by_signature: dict[str, dict[str, Mapping[str, object]]] = {}
    for model, config in models.items():
        by_signature.setdefault(profiles[model].signature, {})[model] = config
    everywhere = varying_names(list(models.values())) if models else []
    groups = list[TrainGroup]()
    for configs in by_signature.values():
        within = varying_names(list(configs.values()))
        told_apart_by = tuple(name for name in everywhere if name not in within)
        groups.append(TrainGroup(configs, profiles[next(iter(configs))], told_apart_by))
    return tuple(groups)
