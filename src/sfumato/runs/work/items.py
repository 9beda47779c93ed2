"""The items of a run: what each depends on, so that it is done once, in whatever order and by whomever."""

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
"""In place of a class that only the model knows."""

UNKNOWN_TARGET = -2
"""Of an example whose annotation is no good, so that its targets are not known."""

OF_PROTOCOLS = ("protocol", "protocol's code", "others")
"""What of a recipe a method's result does not depend on."""


@dataclass(frozen=True)
class Unit:
    """A query of a data set: an example, and one of its targets."""

    query: int
    """Its number in the run's store."""
    name: str
    target: int
    example: Example | None
    content: str = ""
    """A hash of what its picture and masks hold (see `content`)."""
    reason: str = ""
    """Why there is no example."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive units that go through a method together: always the same ones, so that no digit depends on who did what."""

    combination: Combination
    units: tuple[Unit, ...]
    recipes: tuple[int, ...]
    """One a protocol."""

    @cached_property
    def items(self) -> tuple[tuple[Item, ...], ...]:
        """By unit, one a protocol."""
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
    """By combination and protocol, all that items share on which their outcome depends; plain JSON.

    `weights` are the models' identities, `made_by` the versions of all that computes, `indices` the models' outputs of the data
    sets' classes. A method's and a protocol's own
    name in the plan does not count; the source of one that is not sfumato's own does. The names of the models that a protocol
    compares with count, as its rows have them.
    """
    found = {}
    for each in plan.combinations():
        for protocol in each.protocols:
            entry = plan.protocols[protocol]
            method = plan.methods[each.method]
            found[each, protocol] = {
                "made by": dict(made_by),
                "data": each.data,
                "classes": digest([list(plan.data[each.data].data.classes), indices.get((each.data, each.model))]),
                "targets": plan.data[each.data].targets,
                "model": weights[each.model],
                "method": as_key(method),
                "method's code": source.of(method),
                "protocol": as_key(entry.protocol),
                "protocol's code": source.of(entry.protocol),
                "others": {other: weights[other] for other in entry.others},
                "seed": plan.seed,
                "device": plan.device,
                "batch": plan.batch,
            }
    return {key: json.loads(json.dumps(recipe)) for key, recipe in found.items()}


def explanation(recipe: Mapping[str, Any]) -> str:
    """A hash of that part of a recipe on which a method's result depends: of all but the protocol."""
    return digest({name: value for name, value in recipe.items() if name not in OF_PROTOCOLS})


def seed_of(unit: Unit) -> int:
    """The seed of what protocols draw for a picture: the same for all methods, models and protocols, so that these can be
    compared."""
    return int(hashlib.sha256((unit.content or unit.name).encode("utf-8", "surrogatepass")).hexdigest()[:15], 16)
