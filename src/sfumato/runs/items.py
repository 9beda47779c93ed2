"""The items of a run: what each depends on, hashed to a key, so that it is done once, in whatever order and by whomever."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sfumato.configuration import as_json, as_key
from sfumato.data import Data, Example, Thing
from sfumato.runs.classes import ClassNames
from sfumato.runs.plan import PREDICTED, Combination, DataEntry, Plan

PREDICTED_TARGET = -1
"""In place of a class that only the model knows."""

UNKNOWN_TARGET = -2
"""Of an example whose annotation is no good, so that its targets are not known."""

DIGITS = 32
"""Of a hash, in base 16: enough that no two are the same."""


@dataclass(frozen=True)
class Unit:
    """A query of a data set: an example, and one of its targets."""

    name: str
    target: int
    example: Example | None
    reason: str = ""
    """Why there is no example."""

    @cached_property
    def identity(self) -> str:
        """A hash of the example's name, its annotation, and the size of its file; not of where it lies."""
        listed = None if self.example is None or self.example.listed is None else self.target in self.example.listed
        told = [_told(thing) for thing in self.example.things] if self.example else None
        return _digest([self.name, self.target, self.reason, told, listed, self._bytes])

    @property
    def _bytes(self) -> int | None:
        try:
            return self.example.path.stat().st_size if self.example else None
        except OSError:
            return None  # the run will say so when it reads the picture


@dataclass(frozen=True)
class Chunk:
    """Consecutive units that go through a method together: always the same ones, so that no digit depends on who did what."""

    combination: Combination
    units: tuple[Unit, ...]
    recipes: tuple[str, ...]
    """One a protocol."""

    @cached_property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """By unit, one a protocol."""
        return tuple(tuple(key(recipe, unit.identity) for recipe in self.recipes) for unit in self.units)

    @property
    def all_keys(self) -> list[str]:
        return [key for keys in self.keys for key in keys]


def key(recipe: str, identity: str) -> str:
    """By what an item goes, of a recipe and a unit's identity: a hash of all that its outcome depends on."""
    return hashlib.sha256(f"{recipe} {identity}".encode()).hexdigest()[:DIGITS]


def units(data: Data, targets: str) -> Iterator[Unit]:
    """The queries of a data set in its order. What is wrong with an example's annotation becomes a unit that says so."""
    for index in range(len(data)):
        try:
            example = data[index]
        except ValueError as error:
            yield Unit(f"example {index}", UNKNOWN_TARGET, None, str(error))
            continue
        chosen = (PREDICTED_TARGET,) if targets == PREDICTED or not data.classes else example.targets
        for target in chosen:
            yield Unit(example.name, target, example)


def chunks(plan: Plan, recipes: Mapping[tuple[Combination, str], str]) -> Iterator[Chunk]:
    """All that is to be done: of each data set and model, each chunk of queries by all methods before the next."""
    together: dict[tuple[str, str], list[Combination]] = {}
    for combination in plan.combinations():
        together.setdefault((combination.data, combination.model), []).append(combination)
    for (data, _), combinations in together.items():
        entry = plan.data[data]
        for batch in _batched(units(entry.data, entry.targets), plan.batch):
            for each in combinations:
                yield Chunk(each, batch, tuple(recipes[each, protocol] for protocol in each.protocols))


def recipes(
    plan: Plan, weights: Mapping[str, str], made_by: Mapping[str, str]
) -> dict[tuple[Combination, str], dict[str, Any]]:
    """By combination and protocol, all that items share on which their outcome depends; plain JSON.

    `weights` are the models' identities, `made_by` the versions of all that computes. A method's and a protocol's own
    name in the plan does not count.
    """
    found = {}
    for each in plan.combinations():
        for protocol in each.protocols:
            entry = plan.protocols[protocol]
            found[each, protocol] = {
                "made by": dict(made_by),
                "data": each.data,
                "classes": _digest(_classes(plan.data[each.data])),
                "targets": plan.data[each.data].targets,
                "model": weights[each.model],
                "method": as_key(plan.methods[each.method]),
                "protocol": as_key(entry.protocol),
                "others": [weights[other] for other in entry.others],
                "seed": plan.seed,
                "device": plan.device,
            }
    return {key: json.loads(json.dumps(recipe)) for key, recipe in found.items()}


def _classes(entry: DataEntry) -> Any:
    """The classes' names, and what the plan says of them, if anything."""
    names = list(entry.data.classes)
    return names if entry.classes == ClassNames() else [names, as_json(entry.classes)]


def named(recipe: Mapping[str, Any]) -> str:
    """The hash by which a recipe goes."""
    return _digest(recipe)


def explanation(recipe: Mapping[str, Any]) -> str:
    """A hash of that part of a recipe on which a method's result depends: of all but the protocol."""
    return _digest({name: value for name, value in recipe.items() if name not in ("protocol", "others")})


def seed_of(key: str) -> int:
    """The seed of what an item draws."""
    return int(key[:15], 16)


def _batched(stream: Iterator[Unit], size: int) -> Iterator[tuple[Unit, ...]]:
    batch: list[Unit] = []
    for unit in stream:
        batch.append(unit)
        if len(batch) == size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _told(thing: Thing) -> Any:
    """An annotation as plain JSON; of a file its name alone."""
    mask = None if thing.mask is None else thing.mask.name
    return as_json([thing.label, thing.box, thing.polygons, thing.run, mask, thing.difficult])
