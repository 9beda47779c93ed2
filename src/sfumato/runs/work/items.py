"""The items of a run, and what each depends on: so each is done once, in any order and by any worker."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from sfumato.data import Example
from sfumato.runs.plans.catalogue import named_paths
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.stores.content import digest
from sfumato.runs.stores.store import Item
from sfumato.runs.work import source
from sfumato.settings import as_key, dotted_path

PREDICTED_TARGET = -1
"""The target of a query whose class is what the model predicts."""

UNKNOWN_TARGET = -2
"""The target of an example whose annotation cannot be read."""

JUDGED = ("methods", "others")
"""The keys of a protocol in a plan that are no settings of it."""

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
    code: "Code | None" = None,
) -> dict[tuple[Combination, str], dict[str, Any]]:
    """The recipes of a plan, by combination and protocol: all that the items of one recipe depend on, as plain JSON.

    `weights` are the identities of the models, `made_by` the versions of all code that computes, `indices` the outputs of the
    models for the classes of the data sets, and `code` is what `code_of` gives, if that is known already. The name of a method
    or protocol in the plan is not part of a recipe; its source is, unless it belongs to sfumato. The names of models that a
    protocol compares with are, as its rows have them.
    """
    code = code_of(plan) if code is None else code
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
                "method": _settings(plan, "methods", combination.method, method),
                "method's code": code["methods", combination.method],
                "protocol": _settings(plan, "protocols", protocol, entry.protocol),
                "protocol's code": code["protocols", protocol],
                "others": {other: weights[other] for other in entry.others},
                "seed": plan.seed,
                "device": plan.device,
                "batch": plan.batch,
            }
    return {key: json.loads(json.dumps(recipe)) for key, recipe in by_place.items()}


Code = Mapping[tuple[str, str], Sequence[str]]
"""The code of a plan's methods and protocols, by kind and name in the plan (see `source.of`), and of this package."""


def code_of(plan: Plan) -> Code:
    """The code that a plan's methods and protocols depend on, as it is on the disk."""
    things = {("methods", name): method for name, method in plan.methods.items()}
    things |= {("protocols", name): entry.protocol for name, entry in plan.protocols.items()}
    code = {
        (kind, name): source.of(thing, named_paths(plan.entries.get(kind, {}).get(name), name))
        for (kind, name), thing in things.items()
    }
    return {**code, ("packages", "sfumato"): [f"sfumato {source.code()}"]}


def _settings(plan: Plan, kind: str, name: str, thing: Any) -> Any:
    """The settings of a method or protocol. An object that does not tell its own counts as it is written in the plan."""
    if _tells_settings(thing):
        return as_key(thing)
    written = plan.entries.get(kind, {}).get(name)
    if isinstance(written, Mapping):
        written = {key: value for key, value in written.items() if kind == "methods" or key not in JUDGED}
    return [as_key(thing), written]


def _tells_settings(value: Any) -> bool:
    """Whether `as_key` tells an object from others of its class."""
    if is_dataclass(value) and not isinstance(value, type):
        return all(_tells_settings(getattr(value, entry.name)) for entry in fields(value) if entry.init)
    if isinstance(value, Mapping):
        return all(map(_tells_settings, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_tells_settings, value))
    if hasattr(value, "__qualname__"):
        return "<" not in value.__qualname__  # of a function within another, what it was made with is not told
    return (
        value is None
        or isinstance(value, str | bool | int | float | PurePath)
        or as_key(value) != dotted_path(type(value))
    )


def explanation(recipe: Mapping[str, Any]) -> str:
    """A hash of the part of a recipe that a method's result depends on: all but the protocol."""
    return digest({name: value for name, value in recipe.items() if name not in OF_PROTOCOLS})


def seed_of(unit: Unit) -> int:
    """The seed of a protocol's random numbers for a query. It is the same for all methods, models and protocols, so
    that they can be compared."""
    return int(hashlib.sha256((unit.content or unit.name).encode("utf-8", "surrogatepass")).hexdigest()[:15], 16)
