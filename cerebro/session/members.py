"""The models of an experiment as its catalog describes them."""

import json
from collections.abc import Mapping
from typing import Any

from cerebro.plan.program import Member, member_of
from cerebro.plan.workload import Done
from cerebro.storage.catalog import CatalogReader


def members_in(reader: CatalogReader) -> dict[str, Member]:
    """Every model that an experiment has, by id."""
    return {row["model"]: member_in(row) for row in reader.models()}


def member_in(row: Mapping[str, Any]) -> Member:
    """The member that a row of the table `models` describes."""
    ancestor = json.loads(row["ancestor"]) if row["ancestor"] else None
    return member_of({"config": row["config"], "repeat": row["repeat"], "ancestor": ancestor})


def start_of(member: Member) -> Done:
    """Where the first unit of a model is: at the beginning, or where its ancestor's state was taken."""
    ancestor = member.ancestor
    return Done() if ancestor is None else Done(ancestor.epoch, ancestor.train_shards)


def start_in(row: Mapping[str, Any]) -> Done:
    """Where the first unit of the model of a row of the table `models` is."""
    return start_of(member_in(row))
