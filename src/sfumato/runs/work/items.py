"""The items of a run, and what each depends on: so each is done once, in any order and by any worker."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sfumato.data import Example
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.stores.content import digest
from sfumato.runs.stores.store import Item
from sfumato.runs.work import source
from sfumato.settings import as_key

PREDICTED_TARGET = -1
"""The target of a query whose class is what the model predicts."""

UNKNOWN_TARGET = -2
"""The target of an example whose annotation cannot be read."""

OF_PROTOCOLS = ("protocol", "protocol's code", "others")
"""The parts of a recipe that a method's result does not depend on."""


@dataclass(frozen=True)
class Unit:
    """A query of a data set: an example, and one of its targets."""

    query: int
    """The number of the query in the run's store."""
    name: str
    target: int
    example: Example | None
    content: str = ""
    """A hash of the content of its picture and masks (see `content`)."""
    reason: str = ""
    """Why the example cannot be read; empty if it can."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive units that go through a method together. They are always the same, so that digits do not depend on
    the worker."""

    combination: Combination
    units: tuple[Unit, ...]
    recipes: tuple[int, ...]
    """The numbers of the recipes, one for each protocol."""

    @cached_property
    def items(self) -> tuple[tuple[Item, ...], ...]:
        """The items by unit, then by protocol."""
        return tuple(tuple(Item(recipe, unit.query) for recipe in self.recipes) for unit in self.units)

    @property
    def all_items(self) -> list[Item]:
        return [item for items in self.items for item in items]


def recipes(
    plan: Plan,
    weights: Mapping[str, str],
    made_by: Mapping[str, str],
    indices: Mapping[tuple[str, str], Sequence[int | None]] = MappingProxyType({}),
) -> dict[tuple[Combination, str], dict[str, Any]]:
    """The recipes of a plan, by combination and protocol: all that the items of one recipe depend on, as plain JSON.

    `weights` are the identities of the models, `made_by` the versions of all code that computes, and `indices` the outputs of
    the models for the classes of the data sets. The name of a method or protocol in the plan is not part of a recipe; its
    source is, unless it belongs to sfumato. The names of models that a protocol compares with are, as its rows have them.
    """
    by_place = {}
    for combination in plan.combinations():
        for protocol in combination.protocols:
            entry = plan.protocols[protocol]
            method = plan.methods[combination.method]
            by_place[combination, protocol] = {
                "made by": dict(made_by),
                "data": combination.data,
                "classes": digest(
                    [list(plan.data[combination.data].data.classes), indices.get((combination.data, combination.model))]
                ),
                "targets": plan.data[combination.data].targets,
                "model": weights[combination.model],
                "method": as_key(method),
                "method's code": source.of(method),
                "protocol": as_key(entry.protocol),
                "protocol's code": source.of(entry.protocol),
                "others": {other: weights[other] for other in entry.others},
                "seed": plan.seed,
                "device": plan.device,
                "batch": plan.batch,
            }
    return {key: json.loads(json.dumps(recipe)) for key, recipe in by_place.items()}


def explanation(recipe: Mapping[str, Any]) -> str:
    """A hash of the part of a recipe that a method's result depends on: all but the protocol."""
    return digest({name: value for name, value in recipe.items() if name not in OF_PROTOCOLS})


def seed_of(unit: Unit) -> int:
    """The seed of a protocol's random numbers for a query. It is the same for all methods, models and protocols, so
    that they can be compared."""
    return int(hashlib.sha256((unit.content or unit.name).encode("utf-8", "surrogatepass")).hexdigest()[:15], 16)
