"""Drawn scenes whose evidence is known: creatures of parts that can be removed one by one.

R. Hesse, S. Schaub-Meyer, S. Roth: *FunnyBirds: a synthetic vision dataset for a part-based analysis of explainable AI
methods*, ICCV 2023, arXiv 2308.06248. The scenes here are flat, and drawn by this module alone.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from sfumato.data.truth import polygon_pixels
from sfumato.settings import Settings, check_number, check_seed, check_whole

Point = tuple[float, float]
Colour = tuple[int, int, int]

PART, DISTRACTOR, CUE = "part", "distractor", "cue"

VARIANTS = 3
"""Of each part."""

SMALLEST = 48
"""The shortest side, in pixels, at which all parts are drawn with several pixels."""

TRIES = 10_000
"""How many random classes are tried before a table of classes is given up."""


@dataclass(frozen=True)
class Patch:
    """A polygon of one colour."""

    corners: tuple[Point, ...]
    """x and y in units of the thing that it belongs to; in pixels once it is placed."""
    colour: Colour


@dataclass(frozen=True)
class Element:
    """A thing of a scene that can be removed."""

    name: str
    """Unique in its scene: "beak", "distractor 1", "cue"."""
    kind: str
    """"part", "distractor" or "cue"."""
    patches: tuple[Patch, ...]
    """From back to front, in pixels."""


@dataclass(frozen=True)
class Scene:
    """A creature of one class before a background, with what else is in the picture."""

    index: int
    side: int
    """Of the square picture, in pixels."""
    label: int
    variants: tuple[int, ...]
    """The variant of each part, in the order of `PARTS`."""
    elements: tuple[Element, ...]
    """From back to front: distractors, the cue, parts."""
    seed: tuple[int, ...]
    """Of the background's random numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all elements."""
        return tuple(element.name for element in self.elements)


class Drawing:
    """A scene as pixels. Its elements are drawn once, and then shown or left out."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @cached_property
    def _layers(self) -> tuple[Bool[np.ndarray, "n side side"], UInt8[np.ndarray, "m side side 3"]]:
        """The pixels of each element, also where another one covers it; colours of the background, then of each element."""
        side, elements = self.scene.side, self.scene.elements
        places = np.zeros((len(elements), side, side), bool)
        colours = np.zeros((1 + len(elements), side, side, 3), np.uint8)
        colours[0] = background(side, self.scene.seed)
        for index, element in enumerate(elements):
            for patch in element.patches:
                pixels = _pixels(patch, side)
                places[index] |= pixels
                colours[index + 1][pixels] = patch.colour
        return places, colours

    def front(self, without: Collection[str] = ()) -> Int[np.ndarray, "side side"]:
        """The index of the element that each pixel shows, −1 for the background; `without` the elements of these names.

        Raises `ValueError` for a name that the scene does not have.
        """
        if unknown := sorted(set(without) - set(self.scene.names)):
            raise ValueError(f"the scene has no element {unknown[0]!r}; it has {', '.join(self.scene.names)}")
        front = np.full((self.scene.side, self.scene.side), -1)
        for index, (name, places) in enumerate(zip(self.scene.names, self._layers[0], strict=True)):
            if name not in without:
                front[places] = index
        return front

    def picture(self, without: Collection[str] = ()) -> UInt8[Tensor, "3 side side"]:
        """The picture, RGB, drawn anew without the elements of these names."""
        shown = self.front(without)[None, :, :, None] + 1
        return torch.from_numpy(np.take_along_axis(self._layers[1], shown, 0)[0].transpose(2, 0, 1).copy())

    def visible(self, without: Collection[str] = ()) -> dict[str, Bool[Tensor, "side side"]]:
        """The pixels that show each element, by name; none of them if it is removed or covered."""
        front = self.front(without)
        return {name: torch.from_numpy(front == index) for index, name in enumerate(self.scene.names)}


@dataclass(frozen=True)
class Scenes(Settings):
    """An endless row of scenes: a scene for each index from 0, always the same one.

    A creature has six parts, the `PARTS`, with three variants each. A class fixes the variants of `fixed` of the parts; its
    other parts are drawn at random, and say nothing for the class. Two classes differ in at least two parts that both fix.

    - `side`: of the square pictures, in pixels.
    - `creatures`: the number of classes. The scene of an index has the class index mod `creatures`.
    - `distractors`: things in the background that belong to no class, at most three.
    - `cue`: the share of scenes of class 0 that have a cue, a square of one colour in a corner.
    - `cue_elsewhere`: the share of scenes of the other classes that have it. A cue is planted if the two shares differ; if they
      are equal, it says nothing.
    - `seed`: of the classes and the scenes.
    """

    side: int = 64
    creatures: int = 8
    fixed: int = 4
    distractors: int = 2
    cue: float = 0.0
    cue_elsewhere: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("side", self.side, SMALLEST)
        check_whole("creatures", self.creatures, 2)
        check_whole("fixed", self.fixed, 1)
        check_whole("distractors", self.distractors, 0)
        check_number("cue", self.cue, "a share of scenes", least=0, most=1)
        check_number("cue_elsewhere", self.cue_elsewhere, "a share of scenes", least=0, most=1)
        check_seed(self.seed)
        if self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0 up; got {self.seed}")
        if self.fixed > len(PARTS):
            raise ValueError(f"fixed must be at most {len(PARTS)}, the number of parts; got {self.fixed}")
        if self.distractors >= len(CORNERS):
            raise ValueError(f"distractors must be at most {len(CORNERS) - 1}; got {self.distractors}")
        _ = self.table

    @property
    def table(self) -> tuple[tuple[int | None, ...], ...]:
        """The variant of each part in each class, in the order of `PARTS`; `None` where the class leaves it open."""
        return _table(self.creatures, self.fixed, self.seed)

    def scene(self, index: int) -> Scene:
        """The scene of an index."""
        check_whole("index", index, 0)
        seed = (self.seed, index)
        random = np.random.default_rng(seed)
        label = index % self.creatures
        # All numbers are drawn in every scene, so that a setting changes no more than what it is about.
        free = random.integers(VARIANTS, size=len(PARTS)).tolist()
        corners = random.permutation(len(CORNERS))
        has_cue = random.random() < (self.cue_elsewhere if label else self.cue)
        variants = tuple(
            value if fixed is None else fixed for fixed, value in zip(self.table[label], free, strict=True)
        )
        scale = self.side * random.uniform(0.3, 0.36)
        centre = self.side * random.uniform(0.45, 0.55, 2)
        turn, mirrored = random.uniform(-0.2, 0.2), random.random() < 0.5
        body_colour = BODIES[int(random.integers(len(BODIES)))]
        parts = [
            _placed(
                name, PART, draw(variant, body_colour), scale, (centre[0], centre[1]), turn, mirrored,
                random.normal(0, 8, 3),
            )
            for (name, draw), variant in zip(PARTS.items(), variants, strict=True)
        ]  # fmt: skip
        others = []
        for number in range(len(CORNERS) - 1):
            thing = THINGS[int(random.integers(len(THINGS)))]
            colour = HUES[int(random.integers(len(HUES)))]
            place = _in_corner(CORNERS[corners[number]], self.side, random)
            size, angle = self.side * random.uniform(0.07, 0.09), random.uniform(0, 2 * math.pi)
            element = _placed(
                f"distractor {number + 1}", DISTRACTOR, [Patch(thing, colour)], size, place, angle, False, np.zeros(3)
            )
            others += [element] if number < self.distractors else []
        place = _in_corner(CORNERS[corners[-1]], self.side, random)
        if has_cue:
            square = [Patch(((-1, -1), (1, -1), (1, 1), (-1, 1)), CUE_COLOUR)]
            others.append(_placed("cue", CUE, square, self.side * 0.07, place, 0.0, False, np.zeros(3)))
        return Scene(index, self.side, label, variants, (*others, *parts), seed)

    def drawing(self, index: int) -> Drawing:
        """The scene of an index as pixels."""
        return Drawing(self.scene(index))


def background(side: int, seed: Sequence[int]) -> UInt8[np.ndarray, "side side 3"]:
    """A slope from one pale colour to another, with a little noise."""
    random = np.random.default_rng((*seed, 1))
    first, second = random.uniform(130, 225, (2, 3))
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    along = np.clip(0.5 + x * math.cos(angle) + y * math.sin(angle), 0, 1)[..., None]
    noise = random.normal(0, 6, (side, side, 1))
    return np.clip(first * (1 - along) + second * along + noise, 0, 255).round().astype(np.uint8)


@cache
def _table(classes: int, fixed: int, seed: int) -> tuple[tuple[int | None, ...], ...]:
    random = np.random.default_rng((seed, 2))
    table: list[tuple[int | None, ...]] = []
    for _ in range(TRIES):
        chosen = set(random.permutation(len(PARTS))[:fixed].tolist())
        variants = random.integers(VARIANTS, size=len(PARTS)).tolist()
        entry = tuple(variant if part in chosen else None for part, variant in enumerate(variants))
        if all(_conflicts(entry, other) >= 2 for other in table):
            table.append(entry)
            if len(table) == classes:
                return tuple(table)
    raise ValueError(
        f"found no {classes} creatures of {fixed} fixed parts that differ in two parts each; write fewer creatures, or a "
        "larger fixed"
    )


def _conflicts(entry: Sequence[int | None], other: Sequence[int | None]) -> int:
    return sum(a is not None and b is not None and a != b for a, b in zip(entry, other, strict=True))


def _pixels(patch: Patch, side: int) -> Bool[np.ndarray, "side side"]:
    flat = [number for corner in patch.corners for number in corner]
    return polygon_pixels(flat, (side, side)).numpy()


def _placed(
    name: str,
    kind: str,
    patches: Sequence[Patch],
    scale: float,
    centre: Point,
    turn: float,
    mirrored: bool,
    tint: Any,
) -> Element:
    """An element in pixels, of patches in units."""
    cos, sin = math.cos(turn), math.sin(turn)

    def pixels(x: float, y: float) -> Point:
        across, down = cos * x - sin * y, sin * x + cos * y
        return (float(centre[0] + scale * (-across if mirrored else across)), float(centre[1] + scale * down))

    def tinted(colour: Colour) -> Colour:
        red, green, blue = np.clip(np.asarray(colour) + tint, 0, 255).round().astype(int).tolist()
        return red, green, blue

    return Element(
        name,
        kind,
        tuple(Patch(tuple(pixels(*corner) for corner in patch.corners), tinted(patch.colour)) for patch in patches),
    )


def _in_corner(corner: Point, side: int, random: np.random.Generator) -> Point:
    x, y = (side * (place + random.uniform(-0.03, 0.03)) for place in corner)
    return x, y


CORNERS: tuple[Point, ...] = ((0.12, 0.12), (0.88, 0.12), (0.12, 0.88), (0.88, 0.88))
"""Where distractors and the cue are, in shares of the side."""

CUE_COLOUR = (230, 0, 200)
BODIES: tuple[Colour, ...] = ((120, 100, 80), (90, 110, 130), (150, 130, 110), (100, 120, 90))
HUES: tuple[Colour, ...] = ((235, 140, 20), (205, 40, 40), (20, 140, 130), (110, 60, 150), (50, 90, 190), (60, 150, 60))
"""Colours of distractors: those of parts."""


def _oval(x: float, y: float, width: float, height: float, corners: int = 20) -> tuple[Point, ...]:
    """Corners on an ellipse, of half a `width` and half a `height`."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    return tuple((x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles)


def _box(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _star(points: int, inner: float) -> tuple[Point, ...]:
    angles = [math.pi * corner / points for corner in range(2 * points)]
    radii = [inner if corner % 2 else 1.0 for corner in range(2 * points)]
    return tuple((r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True))


THINGS: tuple[tuple[Point, ...], ...] = (
    _star(5, 0.45),
    _star(2, 0.35),
    ((-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35), (0.35, 1),
     (-0.35, 1), (-0.35, 0.35), (-1, 0.35)),
    _oval(0, 0, 0.9, 0.9, 6),
)  # fmt: skip
"""Outlines of distractors: a star, a lozenge, a cross, a hexagon."""


# The parts, of a creature that looks to the right. Its body is about 1 high, and y grows downward.


def _body(variant: int, colour: Colour) -> list[Patch]:
    trunk = (_oval(-0.1, 0.12, 0.62, 0.46), _oval(-0.05, 0.12, 0.46, 0.6), _box(-0.62, -0.3, 0.42, 0.54))[variant]
    return [Patch(trunk, colour), Patch(_oval(0.48, -0.48, 0.4, 0.38), colour)]


def _tail(variant: int, _: Colour) -> list[Patch]:
    if variant == 0:
        return [Patch(((-0.5, 0.1), (-1.15, -0.35), (-1.25, 0.0), (-1.15, 0.35)), (60, 150, 60))]
    if variant == 1:
        fork = ((-0.5, 0.0), (-1.25, -0.45), (-0.95, 0.05), (-1.25, 0.5), (-0.5, 0.25))
        return [Patch(fork, (50, 90, 190))]
    return [
        Patch(_box(-1.2, -0.02, -0.5, 0.2), (220, 130, 160)),
        Patch(_oval(-1.15, 0.09, 0.2, 0.2), (220, 130, 160)),
    ]


def _foot(variant: int, _: Colour) -> list[Patch]:
    if variant == 0:
        legs = (_box(-0.3, 0.45, -0.18, 0.98), _box(0.08, 0.45, 0.2, 0.98))
        return [
            Patch(leg, (235, 140, 20)) for leg in (*legs, _box(-0.36, 0.88, -0.02, 0.98), _box(0.02, 0.88, 0.36, 0.98))
        ]
    if variant == 1:
        return [Patch(((-0.08, 0.4), (0.36, 0.98), (-0.5, 0.98)), (30, 170, 190))]
    return [Patch(_oval(x, 0.78, 0.2, 0.2), (50, 50, 60)) for x in (-0.32, 0.18)]


def _wing(variant: int, _: Colour) -> list[Patch]:
    if variant == 0:
        return [Patch(((0.2, -0.05), (-0.62, -0.1), (-0.1, 0.45)), (20, 140, 130))]
    if variant == 1:
        return [Patch(_oval(-0.15, 0.12, 0.36, 0.22), (110, 60, 150))]
    return [Patch(_box(-0.5, top, 0.2, top + 0.12), (90, 50, 20)) for top in (-0.1, 0.1, 0.3)]


def _beak(variant: int, _: Colour) -> list[Patch]:
    if variant == 0:
        return [Patch(((0.8, -0.68), (1.15, -0.42), (0.8, -0.26)), (235, 140, 20))]
    if variant == 1:
        return [Patch(((0.8, -0.56), (1.45, -0.42), (0.8, -0.34)), (205, 40, 40))]
    return [Patch(_box(0.8, -0.66, 1.08, -0.3), (235, 215, 60))]


def _eye(variant: int, _: Colour) -> list[Patch]:
    if variant == 0:
        return [Patch(_oval(0.5, -0.55, 0.2, 0.2), (250, 250, 250)), Patch(_oval(0.5, -0.55, 0.11, 0.11), (10, 10, 10))]
    if variant == 1:
        return [
            Patch(_oval(0.5, -0.55, 0.19, 0.19), (60, 190, 250)),
            Patch(_box(0.46, -0.74, 0.54, -0.36), (10, 10, 10)),
        ]
    return [Patch(((0.5, -0.8), (0.72, -0.55), (0.5, -0.3), (0.28, -0.55)), (215, 40, 30))]


PARTS: dict[str, Callable[[int, Colour], list[Patch]]] = {
    "tail": _tail, "foot": _foot, "body": _body, "wing": _wing, "beak": _beak, "eye": _eye,
}  # fmt: skip
"""How the parts of a creature are drawn, from back to front: of a variant and the body's colour, patches in units."""
