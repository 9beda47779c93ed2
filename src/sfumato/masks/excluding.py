"""Masks that may not show certain places."""

from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.masks.family import Parametrisation
from sfumato.masks.level_set import LevelSets


def excluding(parametrisation: Parametrisation, places: Bool[Tensor, "*S"]) -> Parametrisation:
    """The same family, of masks that are 0 at these places of the input."""
    if isinstance(parametrisation, LevelSets):
        return parametrisation.excluding(places)
    return Excluding(parametrisation, places)


class Excluding:
    """A family laid over one shape of input, of masks that are 0 at certain places; see `Parametrisation`."""

    def __init__(self, parametrisation: Parametrisation, places: Bool[Tensor, "*S"]) -> None:
        self._every = parametrisation
        self._free = (~places).float()
        self.size, self.finest, self.family = parametrisation.size, parametrisation.finest, parametrisation.family
        self.everything = self._free.mean()[None]
        self.check = parametrisation.check
        self.nodes = parametrisation.nodes

    def masks(self, nodes: Float[Tensor, "N 1 *U"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` of nodes."""
        return self._every.masks(nodes) * self._free

    def areas(self, nodes: Float[Tensor, "N 1 *U"]) -> Float[Tensor, " N"]:
        """The mean of the masks over all of the input, `(N,)`."""
        return self.masks(nodes).flatten(1).mean(1)

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` of parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))
