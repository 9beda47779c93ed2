r"""Extremal perturbations: among all masks of an area, the one that plays the game best.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import saliency
from sfumato.games import PRESERVE, Game
from sfumato.layers.capture import check_layer
from sfumato.layers.tokens import check_layout
from sfumato.masks.canvas import CanvasMask
from sfumato.masks.family import LayerFamily, MaskFamily, Parametrisation, not_laid
from sfumato.masks.level_set import LevelSet
from sfumato.masks.smooth import SmoothMask
from sfumato.methods.masked import MaskMethod
from sfumato.model.rounded import check_precision
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Fade, Perturbation, default_perturbation
from sfumato.search.level_set import LevelSetAscent
from sfumato.search.nested import NestedAscent
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.problem import Ascent
from sfumato.search.projected import ProjectedAscent
from sfumato.search.search import Search
from sfumato.settings import check_flag, check_whole, later, renewed, told
from sfumato.space.jitter import Jitter, MirrorEvenSteps
from sfumato.space.smoothing import enlarged


@dataclass(frozen=True)
class ExtremalPerturbation(MaskMethod):
    r"""For each area $a$: $m_a = \arg\max_m \Phi(m \otimes x)$ over masks of the area $a$ (Fong et al. 2019, section 3).

    Called with a model, inputs `(B, C, *S)` and targets, it returns an `Attribution` with masks `(B, V, 1, *S)`.

    - `areas`: V fractions of the visible input, in (0, 1), growing.
    - `game`: "preserve" (the mask shows what suffices), "delete" (it covers what is needed), "dual", or a `Game`.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    - `steps`: of the ascent, for each mask. `LevelSetAscent` says how it divides them.
    - `perturbation`: what hides a place. With several, the score is the mean over them, also in the result. By default, a
      `LevelSet` uses two, `(Blur(), Fade())`, other masks `Blur()`; at a layer it is `Fade()`, the product with the mask.
    - `mask`: the family of masks, with lengths in places of the input also at a layer: by default `LevelSet()`, sets with
      smooth outlines, or the finer `LevelSet(detail=1.5)` in games that hide the set; `SmoothMask()` are the paper's (see
      `smooth_masks`).
    - `ascent`: how the best is sought: by default as goes with the family. `EvolutionAscent()` needs no gradients, for
      models that have none; its masks are smooth ones unless a `LevelSet` is given.
    - `jitter`: random moves of the perturbed input, or `None`. At a layer nothing is moved, and nothing is mirrored for a
      score of certain places, such as `Region` and `Box`.
    - `smooth`: width of the Gaussian that smooths `result.map`, the mean of the masks, as a fraction of the input's
      shortest side; TorchRay's pointing game uses 0.09 (its sum of masks is this mean times V). By default 0.05 for sets, so
      that places outside of all sets are ordered by how near they are; 0 for other masks.
    - `evenly`: whether each mask has the same share in `result.map`'s sum, instead of the largest the most.
    - `seed`: of all that is random. The same seed gives the same result, alone or in any batch.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free. More masks than fit go through it in turns.
    - `layer`: the dotted name of a module whose output is masked in place of the input, or, `at` the "input", what it takes
      in. The masks are then `(B, V, 1, *L)`, as large as the layer's maps; `map` is as large as the input. A transformer's
      tokens are masked as the grid that they form in the picture; its leading tokens, such as that of its class, are not.
    - `layout`: which axis of the layer's values is which, one letter each: B the batch, C channels, and L, HW, THW or DHW
      places; or N tokens, with their grid as in "B(1+14*14)C" where their number leaves it open. By default it is found
      out from how the network computes the values, and `ValueError` asks for it where that leaves several readings.
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `precision`: of the gradients that the search follows: "bfloat16", which some processors compute up to twice as fast;
      "full" for that of the model; or "auto", bfloat16 for sets on a CPU with instructions for it, if the model's gradient
      keeps its direction. `about["precision"]` says when it was used. Scores have the model's precision in each case.
    - `deterministic`: on a GPU, compute in full float32 and by deterministic kernels, so that a query has the same masks alone
      and in a batch to within rounding; slower. See "Reproducibility" in the documentation.

    How to choose:

    - `areas`: areas that double from one to the next, such as the default. For a single mask let the score decide:
      `sfumato.smallest`.
    - `game`: "preserve" to show what suffices, "delete" to find what the answer cannot do without. Areas of the two games
      cannot be compared.
    - `steps`: the default for results. 50 keep eight or nine tenths as much, in two fifths of the time. 20 or 30 give a first
      look. If `result.agreement` is low, take more.
    - `mask`: for small objects `LevelSet(step=5, sigma=5)`, whose outlines follow finer parts. A finer mask can also follow
      artefacts of the network more closely.
    - `perturbation`: the default, which hides places in two ways. With a single one, a mask may rely on what it leaves.
    - `score`: "logit"; "log-odds" or a `Contrastive` target if a rival class is near; "sigmoid" for several labels.
    - `layer`: none, to explain by places of the input. With a layer a step is cheaper, and the masks are as coarse as its maps.
    - For an order of places take `ExtremalOrder`.
    """

    makes_masks: ClassVar[bool] = True
    finds_smallest: ClassVar[bool] = True

    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    game: Game | str = PRESERVE
    score: str = "logit"
    steps: int = 150
    perturbation: Perturbation | tuple[Perturbation, ...] | None = None
    mask: MaskFamily = None  # type: ignore[assignment]  # see `paired`
    ascent: Ascent = None  # type: ignore[assignment]
    jitter: Jitter | MirrorEvenSteps | None = Jitter()
    smooth: float = None  # type: ignore[assignment]  # see `SMOOTH`
    evenly: bool = False
    seed: int = 0
    memory: float | None = renewed(None, 2.0)
    layer: str = ""
    at: str = "output"
    layout: str = later("")
    call: int = later(-1)
    deterministic: bool = later(False)
    precision: str = later("auto")

    def __post_init__(self) -> None:
        check_precision(self.precision)
        object.__setattr__(self, "areas", check_areas(self.areas))
        game = Game.named(self.game)
        object.__setattr__(self, "game", game)
        check_whole("steps", self.steps, 1)
        check_flag("evenly", self.evenly)
        mask, ascent = paired(self.mask, self.ascent, game)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "ascent", ascent)
        if self.smooth is None:
            object.__setattr__(self, "smooth", SMOOTH if isinstance(mask, LevelSet) else 0.0)
        if isinstance(self.perturbation, list):
            object.__setattr__(self, "perturbation", tuple(self.perturbation))
        if self.perturbation == ():
            raise ValueError("perturbation must be one or several, e.g. (Blur(), Fade()), or None; got none at all")
        for name, does, example in (
            ("perturbation", "__call__", "Blur(), or several, (Blur(), Fade())"),
            ("mask", "on", "LevelSet()"),
            ("ascent", "__call__", "LevelSetAscent()"),
            ("jitter", "moves", "Jitter() or None"),
        ):
            setting = getattr(self, name)
            optional = name in ("jitter", "perturbation")
            for value in setting if isinstance(setting, tuple) and name == "perturbation" else (setting,):
                if isinstance(value, type) or not (hasattr(value, does) or (optional and value is None)):
                    raise ValueError(f"{name} must be a configuration such as {example}; got {setting!r}")
        if not goes_with(self.mask, self.ascent):
            (mask, _), (_, ascent) = paired(None, self.ascent, game), paired(self.mask, None, game)
            raise ValueError(
                f"{type(self.ascent).__name__} cannot search masks of {type(self.mask).__name__}; leave out ascent or mask, as "
                f"each alone chooses the other, or write mask={type(mask).__name__}() or ascent={type(ascent).__name__}(); got "
                f"ascent={self.ascent!r}, mask={self.mask!r}"
            )
        check_layer(self.layer, self.at, self.call)
        check_layout(self.layout)
        if self.layer and not isinstance(self.mask, LayerFamily):
            raise ValueError(
                f"a {type(self.mask).__name__} lies over the input only, as it has no for_shape and divided; got "
                f"layer={self.layer!r}"
            )
        super().__post_init__()

    @classmethod
    def smooth_masks(cls, areas: Sequence[float] = (0.05, 0.1, 0.2), **changes: Any) -> "ExtremalPerturbation":
        """The paper's masks, whose values lie in [0, 1] and whose mean is the area: `SmoothMask` and `ProjectedAscent`.

        They are half transparent in part. A set of the same area, which `ExtremalPerturbation()` finds, keeps more.
        """
        return cls(areas=check_areas(areas), **{"steps": 250, "mask": SmoothMask(), **changes})

    @classmethod
    def torchray(cls, areas: Sequence[float] = (0.1,), **changes: Any) -> "ExtremalPerturbation":
        """The published code, TorchRay 1.0: its canvas, truncated kernel, dark borders, penalty, schedule and mirroring.

        For comparison with it. The areas are those of its canvas, so that more of the input shows: see `achieved`.
        """
        settings = {
            "steps": 800,
            "perturbation": Blur(max_sigma=20, levels=8, border="zeros"),
            "mask": CanvasMask(),
            "jitter": MirrorEvenSteps(),
        }
        return cls(areas=check_areas(areas), **{**settings, **changes})

    def used_perturbations(self) -> tuple[Perturbation, ...]:
        """What hides places; the default depends on the masks, and on whether a layer is masked."""
        if self.perturbation is None and isinstance(self.mask, LevelSet) and not self.layer:
            return Blur(), Fade()
        return super().used_perturbations() or (default_perturbation(self.layer),)

    def used_precision(self) -> str:
        """That of the gradients; by default only those of sets may be rounded, as other masks are published ones."""
        return "full" if self.precision == "auto" and not isinstance(self.mask, LevelSet) else self.precision

    def areas_for(self, search: Search) -> Float[Tensor, " V"]:
        """The areas that were asked for."""
        return torch.tensor(self.areas, dtype=torch.float32, device=search.whole.device)

    def search(self, subject: Subject) -> Search:
        r"""The model as $\Phi$, a family of masks $m$ over what it sees, and $m \otimes x$."""
        space = tuple(subject.inputs.shape[2:])
        subject = self.at_layer(subject)
        seen = subject.inputs
        with subject.surroundings.computing():
            parametrisation = self.family(seen, space)
        hides = self.used_perturbations()
        jitter = Jitter(0, flip=False) if self.layer or self.jitter is None else self.jitter
        if subject.score.names_places:  # what is mirrored lies elsewhere
            jitter = replace(jitter, flip=False) if isinstance(jitter, Jitter) else Jitter(0, flip=False)
        jitter = jitter.for_shape(space) if isinstance(jitter, Jitter) else jitter
        used = {"mask": parametrisation.family, "jitter": None if self.layer or self.jitter is None else jitter}

        def shown(masks: Float[Tensor, "B V 1 *S"]) -> dict[str, Tensor]:
            at_places = enlarged(masks.flatten(0, 1), space).unflatten(0, masks.shape[:2])
            return {"map": saliency(at_places, self.smooth, self.evenly)}

        return self.searching(
            subject, parametrisation, lambda: tuple(perturbation(seen) for perturbation in hides), shown, jitter, **used
        )

    def family(self, seen: Float[Tensor, "B C *L"], space: Sequence[int]) -> Parametrisation:
        """The masks over what is seen, `(B, C, *L)`, of inputs of `space`."""
        if not self.layer:
            parametrisation = self.mask.on(seen.shape[2:], seen.device)
            if not isinstance(parametrisation, Parametrisation):
                raise not_laid(parametrisation, self.mask)
            return parametrisation
        assert isinstance(self.mask, LayerFamily)  # noqa: S101  # checked at the start
        stride = [length / places for length, places in zip(space, seen.shape[2:], strict=True)]
        mask = self.mask.for_shape(space)
        return mask.divided(stride).on(seen.shape[2:], seen.device)


SMOOTH = 0.05
"""Of maps of sets, by default."""

PAIRS: tuple[tuple[type, tuple[type, ...]], ...] = (
    (LevelSet, (LevelSetAscent, NestedAscent)),
    (SmoothMask, (ProjectedAscent,)),
    (CanvasMask, (PenalisedAscent,)),
)
"""Families of masks, each with the ascents that go with it alone, the default first."""


DETAIL = 1.5
"""Of the default sets in games in which they take something away: an answer rests on several places, and each must go."""


def paired(mask: Any, ascent: Any, game: Game) -> tuple[Any, Any]:
    """A family and an ascent; where one is not given, what goes with the other, and sets with the game.

    >>> paired(None, None, PRESERVE)[0] == LevelSet(), paired(None, PenalisedAscent(), PRESERVE)[0] == CanvasMask()
    (True, True)
    """
    if mask is None:
        families = [family for family, ascents in PAIRS if ascent is None or isinstance(ascent, ascents)]
        family = (families or [SmoothMask])[0]
        mask = LevelSet(detail=DETAIL) if family is LevelSet and game.drop else family()
    if ascent is None:
        defaults = [ascents[0] for family, ascents in PAIRS if isinstance(mask, family)]
        ascent = (defaults or [ProjectedAscent])[0]()
    return mask, ascent


def goes_with(mask: Any, ascent: Any) -> bool:
    """Whether an ascent can search the masks of a family.

    >>> goes_with(LevelSet(), LevelSetAscent()), goes_with(LevelSet(), ProjectedAscent())
    (True, False)
    """
    if not any(isinstance(ascent, ascents) for _, ascents in PAIRS):  # EvolutionAscent, or the user's own
        return not isinstance(mask, CanvasMask)
    exclusive = [pair for pair in PAIRS if pair[0] is not SmoothMask]  # smooth masks go with any other ascent
    return all(isinstance(mask, family) == isinstance(ascent, ascents) for family, ascents in exclusive)


def check_areas(areas: Any) -> tuple[float, ...]:
    """Areas as a tuple, if they are growing fractions in (0, 1)."""
    values = tuple(areas) if isinstance(areas, Iterable) and not isinstance(areas, str) else (areas,)
    if not values:
        raise ValueError("areas are empty; give at least one fraction of the input, e.g. areas=(0.1,)")
    for area in values:
        if isinstance(area, bool) or not isinstance(area, int | float):
            raise ValueError(f"areas must be numbers in (0, 1); got {told(area)}")
        if not 0 < area < 1:
            hint = f". Did you mean {area / 100:g} ({area:g} %)?" if 1 <= area < 100 else ""
            raise ValueError(f"areas must lie in (0, 1); got {area:g}{hint}")
    growing = tuple(sorted(set(values)))
    if values != growing:
        raise ValueError(f"areas must grow, each named once; got {values}. Did you mean {growing}?")
    return tuple(float(area) for area in values)
