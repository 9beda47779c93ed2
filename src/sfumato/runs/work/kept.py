"""What methods found and a run has kept, for the protocols that are added to its plan."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.attribution import Attribution
from sfumato.runs.stores.shards import Shards
from sfumato.runs.stores.store import Item, Store, StoreError
from sfumato.runs.work.items import Chunk


@dataclass(frozen=True, eq=False)
class Explained:
    """A method's result for one query, or why there is none."""

    outcome: Attribution | BaseException
    seconds: float
    """What the method took for it: of a batch, its share."""
    masks: str = ""
    """Where it is kept already, as `Done` says it."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The results that the rows of a run name."""

    store: Store
    shards: Shards
    alike: Mapping[int, Sequence[int]]
    """By recipe, all those that differ in no more than the protocol."""
    _sound: set[str] = field(default_factory=set)

    def of(self, chunk: Chunk, wanted: frozenset[Item]) -> dict[int, Explained]:
        """Those of a chunk's units, by their queries, that rows other than the wanted ones name. What a missing or damaged
        shard held is left out, with a warning."""
        found: dict[int, Explained] = {}
        recipes = self.alike.get(chunk.recipes[0], ())
        for unit in chunk.units:
            items = {Item(recipe, unit.query) for recipe in recipes} - wanted
            for done in self.store.look_up(items):
                if done.masks and unit.query not in found:
                    try:
                        found[unit.query] = Explained(self._read(done.masks), done.seconds, done.masks)
                    except StoreError as error:
                        warnings.warn(str(error), stacklevel=1)
        return found

    def _read(self, masks: str) -> Attribution:
        shard, _, name = masks.partition("/")
        if shard not in self._sound:
            self.shards.check(shard)
            self._sound.add(shard)
        return self.shards.read(shard, name)
