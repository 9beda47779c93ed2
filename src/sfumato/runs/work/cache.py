"""Results of methods that a run has kept: protocols that are added to its plan use them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.attribution import Attribution
from sfumato.runs.stores.shards import Shards
from sfumato.runs.stores.store import Item, Store, StoreError
from sfumato.runs.work.items import Chunk


@dataclass(frozen=True, eq=False)
class MethodResult:
    """A method's result for one query, or why there is none."""

    outcome: Attribution | BaseException
    seconds: float
    """Seconds of the method: of a batch, this query's share."""
    masks: str = ""
    """Where the result is kept, as in `Done.masks`; empty if it is new."""


@dataclass(frozen=True, eq=False)
class ResultCache:
    """The results in the shards that rows of a run name."""

    store: Store
    shards: Shards
    alike: Mapping[int, Sequence[int]]
    """By recipe, all recipes that differ from it in the protocol alone."""
    _sound: set[str] = field(default_factory=set)

    def of(self, chunk: Chunk, wanted: frozenset[Item]) -> dict[int, MethodResult]:
        """The kept results of a chunk, by query: those that rows of other items than the wanted ones name.

        Results in a missing or damaged shard are left out, with a warning."""
        results: dict[int, MethodResult] = {}
        recipes = self.alike.get(chunk.recipes[0], ())
        for unit in chunk.units:
            items = {Item(recipe, unit.query) for recipe in recipes} - wanted
            for done in self.store.look_up(items):
                if done.masks and unit.query not in results:
                    try:
                        results[unit.query] = MethodResult(self._read(done.masks), done.seconds, done.masks)
                    except StoreError as error:
                        warnings.warn(str(error), stacklevel=1)
        return results

    def _read(self, masks: str) -> Attribution:
        shard, _, name = masks.partition("/")
        if shard not in self._sound:
            self.shards.check(shard)
            self._sound.add(shard)
        return self.shards.read(shard, name)
