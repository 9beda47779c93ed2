r"""Extremal order: in which order places make the score grow fastest as they are shown, and fall fastest as they are hidden.

$\max_f \int_0^1 \Phi(m_a \otimes x) - \Phi((1 - m_a) \otimes x)\, da$ over smooth fields $f$, where $m_a$ is the level set of
$f$ of the area $a$: the game of Fong et al. 2019 for all areas at once, and the area between the curves of insertion and
deletion of Petsiuk et al. 2018.
"""

from dataclasses import dataclass
from typing import ClassVar

from sfumato.games import DUAL, Game
from sfumato.masks.family import MaskFamily
from sfumato.masks.level_set import LevelSet
from sfumato.methods.extremal import DETAIL, ExtremalPerturbation
from sfumato.perturbations import Blur, Fade, Perturbation
from sfumato.search.nested import NestedAscent
from sfumato.search.problem import Ascent


@dataclass(frozen=True)
class ExtremalOrder(ExtremalPerturbation):
    r"""In which order places matter, found by one search for all areas.

    Called with a model, inputs `(B, C, *S)` and targets, it returns an `Attribution` with `order` `(B, 1, *S)`, 1 for the first
    of n places, 1/n for the last; and masks `(B, V, 1, *S)`, the first places of each of the `areas`, each set within the next.
    `map`, the mean of the masks, smoothed, says where they are.

    The settings are those of `ExtremalPerturbation`, with other defaults:

    - `game`: "dual", as both insertion and deletion count.
    - `score`: "probability", as in the published measure.
    - `perturbation`: `(Blur(5, levels=2), Fade())`, a weak blur and zeros, as insertion and deletion hide places; at a layer
      `Fade()`.
    - `mask`: `LevelSet(detail=1.5)`, whose outlines follow finer parts than those of the default sets.
    - `ascent`: `NestedAscent()`. `steps` are those of the one search: 150 take as many passes as 900 forward passes.

    Each set must fit into all larger ones, so the sets of small areas keep less than those of `ExtremalPerturbation`.

    How to choose: take this method if the order matters, as in insertion and deletion, and `ExtremalPerturbation` if one set
    does.

    - `areas`: only which sets are in the result; the order does not depend on them.
    - `steps`: the default for results, fewer for a first look.
    - `perturbation`: what hides places in the measure by which the order will be judged.
    - `mask`: a larger `detail` for finer outlines.
    """

    finds_smallest: ClassVar[bool] = False  # as it does not only keep

    game: Game | str = DUAL
    score: str = "probability"
    mask: MaskFamily = LevelSet(detail=DETAIL)
    ascent: Ascent = NestedAscent()

    def __post_init__(self) -> None:
        if not (isinstance(self.mask, LevelSet) and isinstance(self.ascent, NestedAscent)):
            raise ValueError(
                "ExtremalOrder takes masks of the family LevelSet and the ascent NestedAscent, which alone gives an order; got "
                f"mask={self.mask!r}, ascent={self.ascent!r}. For others take ExtremalPerturbation"
            )
        super().__post_init__()

    def used_perturbations(self) -> tuple[Perturbation, ...]:
        """What hides places; the default depends on whether a layer is masked."""
        if self.perturbation is None and not self.layer:
            return Blur(max_sigma=5, levels=2), Fade()
        return super().used_perturbations()
