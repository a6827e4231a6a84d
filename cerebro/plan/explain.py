"""Plans as text: what `explain` shows."""

from cerebro.plan.considered import considered_text
from cerebro.plan.cost import Cost
from cerebro.plan.logical import Select
from cerebro.plan.node import Node, tree
from cerebro.plan.physical import PhysicalPlan
from cerebro.quantities import bytes_text, seconds_text


def physical_text(physical: PhysicalPlan, actual: Cost | None = None) -> str:
    """The physical plan as a tree with its estimates, and beside that of the root what it was in the end."""

    def note(node: Node) -> str:
        if node is physical.root:
            measured = f"   |   {actual.text('actual')}" if actual else ""
            return physical.cost.text("est") + measured
        if node is physical.hop:
            hop = physical.hop
            best = seconds_text(physical.lower_bound_seconds)
            return f"order {hop.order}, {hop.policy}; at best {best}{_reading_text(physical, actual)}"
        return node.note()

    return tree(physical.root, note)


def _reading_text(physical: PhysicalPlan, actual: Cost | None) -> str:
    """What is read of the shards, where memory cannot hold them all; the dataset is what one epoch of a model reads."""
    memory = physical.hop.workload.memory
    if memory is None or not memory.is_short:
        return ""
    size = sum(memory.train_bytes) + sum(memory.valid_bytes)
    measured = f" | actual {bytes_text(actual.read_bytes)}" if actual else ""
    return (
        f"; {bytes_text(memory.limit_bytes)} for shards of {bytes_text(size)}, "
        f"read est {bytes_text(physical.cost.read_bytes)}{measured}"
    )


def why_text(physical: PhysicalPlan) -> str:
    """What the optimizer has weighed, one alternative a line."""
    return considered_text(physical.considered)


def story_text(physical: PhysicalPlan, how: str, logical: Select) -> str:
    """What is to be done, what the optimizer has found in that if anything, `how` it is done, and what was weighed."""
    rewritten = {"rewritten": tree(physical.rewritten)} if physical.rewritten != logical else {}
    parts = {"logical": tree(logical), **rewritten, "physical": how, "weighed": why_text(physical)}
    return "\n\n".join(f"{name}\n{text}" for name, text in parts.items())
