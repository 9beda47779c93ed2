r"""Importance of parts: whether a map ranks the parts of a drawn scene as their removal does.

R. Hesse, S. Schaub-Meyer, S. Roth: *FunnyBirds: a synthetic vision dataset for a part-based analysis of explainable AI
methods*, ICCV 2023, arXiv 2308.06248, sections 3 and 4.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.data.scenes import CUE, DISTRACTOR, Drawing, Scenes
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import spearman
from sfumato.metrics.part_scores import PartScorer, finite, part_scores
from sfumato.metrics.protocol import Protocol
from sfumato.scores import check_finite, check_meaning
from sfumato.settings import check_number

WHO = "PartImportance"

ROUNDING = 1e-5
"""Effects are rounded to this share of the largest one, so that those that differ only by rounding of the model are equal."""

SAME = 2e-3
"""How far inputs may lie from the drawn picture, in values of a picture in [0, 1]: half of a step of 8 bits."""


@dataclass(frozen=True)
class PartImportance(Protocol):
    r"""Rank correlation over a scene's parts k of $\Phi(x) - \Phi(x_{\setminus k})$ with the mean of the map over part k.

    The picture $x_{\setminus k}$ is drawn anew without part k, so that it shows what the part covered: nothing is blurred or
    greyed. The case's `picture` is the name of an example of `data.Planted`, and its inputs are that whole picture, in its own
    size. The parts are those with a visible pixel, and the cue if the scene has one.

    - `scenes`: the scenes that the picture is from.
    - `score`: what a class index means, "log-odds", "logit", "probability" or "sigmoid"; any other target is a score itself.
    - `slight`: an element has no effect if its removal changes the score by at most this share of the largest change.
    - `mean`, `std`: how the network's inputs are normalised, for each channel.

    A map says how much each place matters. So a part is as important as its places are on average; the sum of the map over them
    is mostly the part's size, where a map is nowhere near 0. A map with the same mean on all parts ranks none, and has the
    correlation 0. Where a result has an `order`, its means stand for those of the map.

    A row holds

    - `rank_correlation`; `sum_correlation`, with the sum of the map over each part instead of the mean. NaN if all parts
      have the same effect;
    - `first`, whether the part that matters most by its removal has the highest mean of all;
    - `cue_found`, if the scene has a cue whose removal matters most: whether the map has its highest mean there, else NaN;
    - `cue_accused`, if the scene has a cue without an effect: whether the map has its highest mean there, else NaN;
    - `distractors`, the share of the map, above its least value, that lies on distractors without an effect;
      `distractors_area`, their share of the picture, which is to be expected by chance; `distractors_above`, the
      difference. NaN without such distractors;
    - `effect`, the largest change of the score; `cue_effect`, the cue's share of it, NaN without a cue.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    scenes: Scenes = Scenes()
    score: str = "log-odds"
    slight: float = 0.05
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.scenes, Scenes):
            raise ValueError(f"scenes must be a configuration such as Scenes(cue=0.9); got {self.scenes!r}")
        check_meaning(self.score)
        check_number("slight", self.slight, "a share of the largest change", least=0, below=1)
        for name, above in (("mean", None), ("std", 0)):
            values = getattr(self, name)
            if not isinstance(values, Iterable) or isinstance(values, str) or len(values := tuple(values)) != 3:
                raise ValueError(f"{name} must be three numbers, for red, green and blue; got {values!r}")
            for value in values:
                check_number(name, value, "three numbers, for red, green and blue", above=above)
            object.__setattr__(self, name, values)

    def measure(self, case: Case) -> Row:
        """The row of a case. Raises `ValueError` if the inputs are not the picture that the case names."""
        drawing = self._drawing(case)
        visible = {name: pixels for name, pixels in drawing.visible().items() if pixels.any()}
        effects = self._effects(case, drawing, list(visible))
        kinds = {element.name: element.kind for element in drawing.scene.elements}
        parts = [name for name in visible if kinds[name] != DISTRACTOR]
        largest = max(abs(effect) for effect in effects.values())
        measured = _rounded(torch.tensor([effects[name] for name in parts], dtype=torch.float64, device="cpu"), largest)
        order = finite(case.order).double()
        sums = torch.stack([order[visible[name]].sum() for name in parts])
        means = torch.stack([order[visible[name]].mean() for name in parts])
        most, highest = parts[int(measured.argmax())], parts[int(means.argmax())]
        without_effect = {name for name in visible if abs(effects[name]) <= self.slight * largest}
        cue = next((name for name in parts if kinds[name] == CUE), None)
        idle = [pixels for name, pixels in visible.items() if name in without_effect and kinds[name] == DISTRACTOR]
        share, area = _share(finite(case.map), idle)
        return {
            "rank_correlation": _correlation(measured, means),
            "sum_correlation": _correlation(measured, sums),
            "first": most == highest,
            "cue_found": float(highest == cue) if cue is not None and most == cue else math.nan,
            "cue_accused": float(highest == cue) if cue is not None and cue in without_effect else math.nan,
            "distractors": share,
            "distractors_area": area,
            "distractors_above": share - area,
            "effect": largest,
            "cue_effect": effects[cue] / largest if cue is not None and largest > 0 else math.nan,
        }

    def effects(self, case: Case) -> Mapping[str, float]:
        r"""$\Phi(x) - \Phi(x_{\setminus k})$ of each element that has a visible pixel, by name."""
        drawing = self._drawing(case)
        return self._effects(case, drawing, [name for name, pixels in drawing.visible().items() if pixels.any()])

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        return (
            Measure("rank correlation", mean("rank_correlation")),
            Measure("rank correlation of sums", mean("sum_correlation")),
            Measure("most important part", mean("first"), percent=True),
            Measure("cue found", mean("cue_found"), percent=True),
            Measure("cue accused", mean("cue_accused"), higher_is_better=False, percent=True),
            Measure("on distractors", mean("distractors"), higher_is_better=False, percent=True),
            Measure("on distractors, above chance", mean("distractors_above"), higher_is_better=False, percent=True),
        )

    def _drawing(self, case: Case) -> Drawing:
        """The scene of a case. Raises `ValueError` unless the inputs show it."""
        inputs = case.need("inputs", WHO)
        if not (case.picture.isascii() and case.picture.isdigit()):
            raise ValueError(
                f"{WHO} needs the index of a scene as the case's picture, e.g. Case(picture='12'); got {case.picture!r}"
            )
        drawing = self.scenes.drawing(int(case.picture))
        whole = self._prepared([drawing.picture()])
        if inputs.shape != whole.shape or (inputs.detach().cpu().float() - whole).abs().max() > SAME / min(self.std):
            raise ValueError(
                f"the inputs are not scene {case.picture} of {self.scenes}: {WHO} needs its whole picture "
                f"{tuple(whole.shape)}, in [0, 1] or normalised by mean={self.mean}, std={self.std}; check scenes, mean and "
                "std, and take a preparation that neither crops nor resizes"
            )
        return drawing

    def _effects(self, case: Case, drawing: Drawing, names: Sequence[str]) -> dict[str, float]:
        with part_scores(case, self.score, WHO) as scorer:
            scores = _scores(scorer, self._prepared([drawing.picture([name]) for name in names]))
        return {name: scorer.whole_score - score for name, score in zip(names, scores, strict=True)}

    def _prepared(self, pictures: Sequence[Tensor]) -> Float[Tensor, "N 3 H W"]:
        rgb = torch.stack(list(pictures)).float() / 255
        shift, scale = (torch.tensor(values, dtype=torch.float32, device="cpu") for values in (self.mean, self.std))
        return (rgb - shift[:, None, None]) / scale[:, None, None]


def _scores(scorer: PartScorer, pictures: Float[Tensor, "N C *S"]) -> list[float]:
    """The scores of other pictures in place of the case's own."""
    subject = scorer.subject
    scores: list[float] = []
    for rows in pictures.to(subject.inputs.device).split(scorer.rows):
        query = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        with subject.surroundings.computing(), torch.no_grad():
            scores += check_finite(subject.phi(rows, query), "a picture without one of its parts").tolist()
    return scores


def _rounded(effects: Float[Tensor, " n"], largest: float) -> Float[Tensor, " n"]:
    return (effects / (ROUNDING * largest)).round() if largest > 0 else effects


def _correlation(measured: Float[Tensor, " n"], said: Float[Tensor, " n"]) -> float:
    """The rank correlation of what a map says with what was measured: 0 if it says nothing, NaN if there is nothing to say."""
    if bool((said == said[0]).all()) and not bool((measured == measured[0]).all()):
        return 0.0
    return spearman(measured, said)


def _share(saliency: Float[Tensor, "*S"], places: Sequence[Bool[Tensor, "*S"]]) -> tuple[float, float]:
    """The share of a map, above its least value, at some places, and their share of all places; NaN without places.

    A constant map has the same share everywhere.
    """
    if not places:
        return math.nan, math.nan
    chosen = torch.stack(list(places)).any(0)
    energy = (saliency - saliency.min()).double()
    area, total = float(chosen.double().mean()), float(energy.sum())
    return (float(energy[chosen].sum()) / total if total > 0 else area), area
