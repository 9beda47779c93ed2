"""Where the channels and the places are in what a layer puts out, and where a transformer's tokens lie in the picture."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.layers.axes import Axes, Axis

MOST_LEADING = 16
"""Tokens before those of the picture where only their number is known: its class, registers, prompts."""

AS_COMPUTED, BY_SIZES = "as the network computes it", "by its sizes"
"""How a layout may be known."""

SPACES = {1: ("L", "T"), 2: ("HW",), 3: ("THW", "DHW")}
"""What the axes of space are called, by their number."""


class LayoutError(ValueError):
    """A layer's values cannot be read. `why` says it in a few words; where several readings fit, `readings` are the values
    of `layout` for them."""

    def __init__(self, message: str, why: str = "", readings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.why, self.readings = why, readings


@dataclass(frozen=True)
class Layout:
    """From values in a network's own form to `(N, C, *L)`, and back.

    `channels` is the axis of channels. Where places are tokens, which the axis `tokens` counts, the first `leading` and the
    last `trailing` of them are none, and the others form the `grid`. Values without places, `(N, C)`, have one: `vector`.
    """

    channels: int = 1
    leading: int = 0
    grid: tuple[int, ...] | None = None
    vector: bool = False
    tokens: int = 1
    trailing: int = 0
    reason: str = field(default="", compare=False)
    """How it is known."""

    def places(self, values: Tensor) -> Tensor:
        """Values in the network's own form as `(N, C, *L)`."""
        if self.vector:
            return values.unsqueeze(-1)
        if self.grid is not None:
            values = values.narrow(self.tokens, self.leading, math.prod(self.grid)).unflatten(self.tokens, self.grid)
        return values.movedim(self.channels, 1)

    def outside(self, values: Tensor) -> Tensor:
        """The tokens without a place, those before the others and those behind them, in the network's own form."""
        before = values.narrow(self.tokens, 0, self.leading)
        if not self.trailing:
            return before
        return torch.cat([before, values.narrow(self.tokens, -self.trailing, self.trailing)], self.tokens)

    def own(self, places: Tensor, outside: Tensor) -> Tensor:
        """`(N, C, *L)` in the network's own form, between the tokens `outside` if it has such."""
        if self.vector:
            return places.squeeze(-1)
        values = places.movedim(1, self.channels)
        if self.grid is not None:
            values = values.flatten(self.tokens, self.tokens + len(self.grid) - 1)
        if not self.leading + self.trailing:
            return values
        before, behind = outside.to(values.dtype).split([self.leading, self.trailing], self.tokens)
        return torch.cat([before, values, behind], self.tokens)

    def letters(self, space: int) -> str:
        """The value of `layout` that says it, for inputs with so many axes of space."""
        if self.vector:
            return "BC"
        places = SPACES[space][0]
        if self.grid is not None:
            counts = [self.leading, "*".join(map(str, self.grid)), self.trailing]
            places = f"({'+'.join(str(count) for count in counts if count)})"
        return f"BC{places}" if self.channels == 1 else f"B{places}C"

    def in_words(self, shape: Sequence[int], space: int) -> str:
        """How it reads a shape: the value of `layout`, channels and places."""
        sizes = self.grid or _without(shape[1:], self.channels - 1 if self.channels > 0 else -1)
        outside = f" and {self.leading + self.trailing} without a place" if self.leading + self.trailing else ""
        return f'layout="{self.letters(space)}" ({shape[self.channels]} channels at {_product(sizes)} places{outside})'


def layout(
    shape: Sequence[int], space: Sequence[int], layer: str, axes: Axes | None = None, letters: str = ""
) -> Layout:
    """How `shape` lies over inputs of `space`: `(N, C, *L)`, or `(N, *L, C)`, `(N, tokens, C)` or `(N, C, tokens)`.

    `axes` is what a watched pass says of the axes (see `axes.axes_of`), and `letters` what the user says, as "BHWC", which
    counts more. What is not known from either is read by sizes, where they leave one reading: maps shrink by one stride
    along all axes, tokens form a grid of whole patches. Raises `LayoutError` where nothing fits, or more than one reading.
    """
    if letters:
        return _by_letters(letters, shape, space, layer, axes)
    axes = axes or (Axis("open"),) * len(shape)
    if not layer:
        return Layout(reason="the inputs")
    check_axes(axes, layer, shape)
    fitting = [reading for reading in _readings(shape, space, axes) if _fits(reading, shape, space, axes)]
    known = [reading for reading in fitting if _known(reading, axes)]
    if len(known) == 1:
        return replace(known[0], reason=AS_COMPUTED)
    sized = [reading for reading in fitting if _follows(reading, shape, space)]
    maps = _heads_of_tokens(shape, space, axes)
    if len(sized) == 1 and not maps:
        return replace(sized[0], reason=BY_SIZES)
    raise _refusal(shape, space, layer, axes, sized or fitting, maps)


def channel_layout(
    shape: Sequence[int], space: Sequence[int], layer: str = "", axes: Axes | None = None, letters: str = ""
) -> Layout:
    """The same for what is done to channels alone: all tokens count, whether or not they form a grid, and vectors do."""
    if len(shape) == 2:
        return Layout(vector=True)
    if letters:
        return _channels_by_letters(letters, shape, space, layer)
    if not layer:
        return Layout(reason="the inputs")
    axes = axes or (Axis("open"),) * len(shape)
    check_axes(axes, layer, shape)
    kinds = [axis.kind for axis in axes]
    for kind in ("channels", "open"):  # where no axis is known to be channels, the only one that may be
        which = [axis for axis in range(1, len(shape)) if kinds[axis] == kind]
        if len(which) == 1 and (kind == "channels" or "places" in kinds):
            at = which[0]
            if at in (1, len(shape) - 1):
                return Layout(channels=1 if at == 1 else -1, reason=AS_COMPUTED)
        if which:
            break
    try:
        found = layout(shape, space, layer, axes)
    except LayoutError as error:
        if len(shape) != 3 or error.readings or "open" not in kinds:
            raise
        place = "L" if len(space) == 1 else "N"
        raise LayoutError(
            f"{_sizes(shape, space, layer)}, whose channels can be its axis 1, {shape[1]}, or its last, {shape[-1]}; say "
            f'which, with layout="BC{place}" or layout="B{place}C"',
            "several readings fit",
            (f"BC{place}", f"B{place}C"),
        ) from None
    return Layout(channels=found.channels, reason=found.reason)


def laid_out(values: Tensor, space: Sequence[int], layer: str, axes: Axes | None = None, letters: str = "") -> Tensor:
    """Values of a layer over inputs of `space` as `(N, C, *L)`: see `layout`."""
    return layout(values.shape, space, layer, axes, letters).places(values)


def check_layout(letters: Any) -> None:
    """Raise `ValueError` unless it can be the value of `layout`."""
    if not isinstance(letters, str):
        raise ValueError(
            f'layout names the axes of the layer\'s values, e.g. layout="BHWC", "" to find out; got {letters!r}'
        )
    if not letters:
        return
    parts = _parts(letters)
    places = [part for part in parts[1:] if part != "C"]
    good = parts[:1] == ["B"] and parts.count("C") == 1 and "".join(parts) == letters
    spaces = {names for several in SPACES.values() for names in several}
    if not good or not ("".join(places) in spaces | {"N"} or (len(places) == 1 and places[0].startswith("("))):
        hint = (
            f' Did you mean layout="B{letters[1:]}"?'
            if letters[:1] == "N" and "B" not in letters and len(letters) > 2
            else ""
        )
        raise ValueError(
            f"layout={letters!r} does not name the axes of a layer's values; expected B for the batch first, C for the "
            "channels, and for the places L, HW, THW or DHW, or N for tokens, written with their number as (1+14*14) where "
            f'it is not clear, e.g. layout="BHWC", "BNC" or "B(1+14*14)C".{hint}'
        )


def _parts(letters: str) -> list[str]:
    return re.findall(r"[A-Z]|\(\d+(?:[*+]\d+)*\)", letters)


def _by_letters(letters: str, shape: Sequence[int], space: Sequence[int], layer: str, axes: Axes | None) -> Layout:
    """The layout that the user names."""
    check_layout(letters)
    parts = _parts(letters)
    reason = "as layout says"
    wrong = _misfit(letters, shape, space, layer)
    if len(parts) != len(shape):
        raise wrong
    channels = 1 if parts[1] == "C" else -1
    if parts[channels] != "C":
        raise wrong
    place = next(part for part in parts[1:] if part != "C")
    if place != "N" and not place.startswith("("):
        if "".join(part for part in parts[1:] if part != "C") not in SPACES.get(len(space), ()):
            raise wrong
        return Layout(channels=channels, reason=reason)
    tokens = 2 if channels == 1 else 1
    if place == "N":
        known = axes[tokens] if axes is not None else Axis("open")
        grids = list(_token_grids(shape[tokens], space, known if known.kind == "places" else Axis("open")))
        if len(grids) == 1:
            return Layout(channels, grids[0][0], grids[0][1], tokens=tokens, trailing=grids[0][2], reason=reason)
        raise _refusal(
            shape,
            space,
            layer,
            (Axis("open"),) * len(shape),
            [Layout(channels, before, grid, tokens=tokens, trailing=behind) for before, grid, behind in grids],
            "",
        )
    terms = [tuple(map(int, term.split("*"))) for term in place[1:-1].split("+")]
    like_space = [index for index, term in enumerate(terms) if len(term) == len(space)]
    at = like_space[0] if len(like_space) == 1 else max(range(len(terms)), key=lambda index: math.prod(terms[index]))
    before, behind = (sum(map(math.prod, some)) for some in (terms[:at], terms[at + 1 :]))
    if len(terms[at]) != len(space) or before + behind + math.prod(terms[at]) != shape[tokens]:
        raise wrong
    return Layout(channels, before, terms[at], tokens=tokens, trailing=behind, reason=reason)


def _channels_by_letters(letters: str, shape: Sequence[int], space: Sequence[int], layer: str) -> Layout:
    """Where the user says that the channels are; tokens need not form a grid."""
    check_layout(letters)
    parts = _parts(letters)
    if len(parts) != len(shape) or "C" not in (parts[1], parts[-1]):
        raise _misfit(letters, shape, space, layer)
    return Layout(channels=1 if parts[1] == "C" else -1, reason="as layout says")


def _misfit(letters: str, shape: Sequence[int], space: Sequence[int], layer: str) -> LayoutError:
    return LayoutError(
        f"layout={letters!r} does not fit: {_sizes(shape, space, layer)}; give one letter for each axis, "
        f"e.g. layout={_example(shape, space)!r}, or leave it out"
    )


def _example(shape: Sequence[int], space: Sequence[int]) -> str:
    return f"B{SPACES[len(space)][0]}C" if len(shape) == 2 + len(space) else "BNC"


# What may be read, and what of it fits.


def _readings(shape: Sequence[int], space: Sequence[int], axes: Axes) -> Iterator[Layout]:
    if len(shape) == 2 + len(space):
        yield Layout(channels=1)
        yield Layout(channels=-1)
    if len(shape) == 3:
        for tokens, channels in ((1, -1), (2, 1)):
            for before, grid, behind in _token_grids(shape[tokens], space, axes[tokens]):
                if len(space) > 1 or before + behind:
                    yield Layout(channels, before, grid, tokens=tokens, trailing=behind)


def _token_grids(count: int, space: Sequence[int], axis: Axis) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """How many of so many tokens come before the grid, the grid, and how many come behind it.

    By sizes, the grid has the picture's proportions and divides it into whole patches, so for a square picture the number
    of its tokens is a square; fewer than these lead, and no more than `MOST_LEADING`.
    """
    if axis.kind == "places":
        grids = [piece.grid for piece in axis.pieces if piece.grid]
        if len(grids) == 1 and [number for number, _ in grids[0]] == list(range(len(space))):
            at = next(index for index, piece in enumerate(axis.pieces) if piece.grid)
            before, behind = (sum(piece.length for piece in some) for some in (axis.pieces[:at], axis.pieces[at + 1 :]))
            yield before, tuple(size for _, size in grids[0]), behind
    elif axis.kind == "open" and len(space) == 2:
        sides = [side // math.gcd(*space) for side in space]
        for leading in range(min(MOST_LEADING + 1, count)):
            times = math.isqrt((count - leading) // math.prod(sides))
            places = times**2 * math.prod(sides)
            if places > max(1, leading) and places == count - leading and math.gcd(*space) % times == 0:
                yield leading, tuple(times * side for side in sides), 0


def _roles(reading: Layout, rank: int) -> list[Any]:
    """For each axis but the first: "channels", "tokens", or the number of the axis of space whose places it counts."""
    if reading.grid is not None:
        return ["channels", "tokens"] if reading.channels == 1 else ["tokens", "channels"]
    numbers = list(range(rank - 2))
    return ["channels", *numbers] if reading.channels == 1 else [*numbers, "channels"]


def _fits(reading: Layout, shape: Sequence[int], space: Sequence[int], axes: Axes) -> bool:
    """Whether it contradicts nothing that is known of the axes."""
    del space
    for axis, role, size in zip(axes[1:], _roles(reading, len(shape)), shape[1:], strict=True):
        if axis.kind in ("open", "one"):
            continue
        if role == "channels":
            fits = axis.kind in ("channels", "window")
        elif role == "tokens":
            fits = axis.kind == "places"
        else:
            fits = axis.kind == "places" and [piece.grid for piece in axis.pieces] == [((role, size),)]
        if not fits:
            return False
    return True


def _known(reading: Layout, axes: Axes) -> bool:
    """Whether the network was seen to compute it so: all its places, as far as there are several."""
    roles = _roles(reading, len(axes))
    places = [axis.kind for axis, role in zip(axes[1:], roles, strict=True) if role != "channels"]
    channels = [axis.kind for axis, role in zip(axes[1:], roles, strict=True) if role == "channels"]
    if "places" in places:
        return "open" not in places
    return set(places) == {"one"} and channels == ["channels"]


def _follows(reading: Layout, shape: Sequence[int], space: Sequence[int]) -> bool:
    """Whether its places can be those of the inputs' `space`, divided by one stride, less a border that was lost."""
    if reading.grid is not None:
        return True
    sizes = shape[2:] if reading.channels == 1 else shape[1:-1]
    if len(sizes) == 3:  # frames or slices have a stride of their own
        sizes, space = sizes[1:], space[1:]
    return any(
        all(size <= math.ceil(length / stride) + 1 for size, length in zip(sizes, space, strict=True))
        and all(
            abs((size - sizes[0]) - (length - space[0]) / stride) <= 1
            for size, length in zip(sizes, space, strict=True)
        )
        for stride in (0.25, 0.5, *range(1, max(space) + 1))
    )


def _heads_of_tokens(shape: Sequence[int], space: Sequence[int], axes: Axes) -> str:
    """The reading `(N, heads, tokens, tokens)` in words, where it cannot be excluded: what tokens attend to is no map."""
    if len(shape) != 4 or len(space) != 2 or shape[2] != shape[3] or {axis.kind for axis in axes[2:]} != {"open"}:
        return ""
    if any(leading <= 1 for leading, _, _ in _token_grids(shape[2], space, axes[2])):
        return f"the attention of {shape[1]} heads among {shape[2]} tokens, which no layout reads"
    return ""


def check_axes(axes: Axes | None, layer: str, shape: Sequence[int] | None = None) -> None:
    """Raise `LayoutError` where the first axis is known not to be the batch, or two axes to count the same places."""
    if not axes:
        return
    first = axes[0]
    shape = [axis.size for axis in axes] if shape is None else shape
    if first.kind not in ("batch", "open", "one"):
        words = first.words or {"window": "the places of a window"}.get(first.kind, first.kind)
        where = [index for index, axis in enumerate(axes) if axis.kind == "batch"]
        instead = f"; the batch is its axis {where[0]}" if where else ""
        raise LayoutError(
            f"the layer {layer!r} puts out shape {tuple(shape)}, whose first axis counts {words}, not the batch alone"
            f"{instead}; name a layer around it whose output is (N, C, *L)",
            f"its first axis counts {words}",
        )
    counted = [number for axis in axes for number in {number for piece in axis.pieces for number, _ in piece.grid}]
    if len(counted) != len(set(counted)):
        raise LayoutError(
            f"the layer {layer!r} puts out shape {tuple(shape)}, of which two axes count the same places: what tokens attend "
            'to is no map; name the attention layer, or for its heads the projection after them with at="input" and groups',
            "two axes count the same places",
        )


def _refusal(
    shape: Sequence[int],
    space: Sequence[int],
    layer: str,
    axes: Axes,
    readings: Sequence[Layout],
    other: str,
) -> LayoutError:
    sizes = _sizes(shape, space, layer)
    ways = [reading.in_words(shape, len(space)) for reading in readings]
    letters = tuple(reading.letters(len(space)) for reading in readings)
    if ways:
        either = " or ".join([*ways, other] if other else ways)
        return LayoutError(
            f'{sizes}, which can be read as {either}; say which, e.g. layer={layer!r}, layout="{letters[-1]}"',
            "several readings fit",
            letters,
        )
    kinds = ["batch", *(_in_words(axis, size) for axis, size in zip(axes[1:], shape[1:], strict=True))]
    if any(axis.kind != "open" for axis in axes):
        known = f", whose axes are {' · '.join(kinds)}"
    elif len(shape) == 3 and len(space) == 2:
        known = (
            f": {shape[1]} tokens, which with up to {MOST_LEADING} leading ones left out are no grid of whole patches of "
            "the picture"
        )
    else:
        known = ""
    return LayoutError(
        f"{sizes}{known}: not (N, C, *L) with {len(space)} axes of places; name a layer whose output has places"
        + (
            f', or say how to read it, e.g. layout="{_example(shape, space)}"'
            if "open" in {a.kind for a in axes}
            else ""
        ),
        " · ".join(kinds[1:]),
    )


def _sizes(shape: Sequence[int], space: Sequence[int], layer: str) -> str:
    axes = f"{len(space)} axes of space" if len(space) > 1 else "one axis of space"
    return f"the layer {layer!r} puts out shape {tuple(shape)} for inputs with {axes} ({_product(space)})"


def _in_words(axis: Axis, size: int) -> str:
    if axis.kind == "places":
        grids = [
            _product([count for _, count in piece.grid]) if piece.grid else f"{piece.length} others"
            for piece in axis.pieces
        ]
        return f"places ({' + '.join(grids)})"
    return {"one": "1", "open": f"{size} (not known)", "window": "the places of a window"}.get(
        axis.kind, axis.words or axis.kind
    )


def _without(sizes: Sequence[int], place: int) -> tuple[int, ...]:
    rest = list(sizes)
    del rest[place]
    return tuple(rest)


def _product(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))
