"""The layout of a layer's values: which axis is the channels, which are places, and which place each token has."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sfumato.layers.axes import Axes, Axis
from sfumato.layers.capture import SIDES

MOST_LEADING = 16
"""The largest number of tokens before those of the picture (class, registers, prompts) if only the sum of all is known."""

AS_COMPUTED, BY_SIZES = "as the network computes it", "by its sizes"
"""How a layout may be known."""

SPACES = {1: ("L", "T"), 2: ("HW",), 3: ("THW", "DHW")}
"""The letters for the axes of space, by the number of these axes."""


class LayoutError(ValueError):
    """The layout of a layer's values is not known. `why` gives the reason in a few words. If several layouts fit, `readings`
    are the values of `layout` for them."""

    def __init__(self, message: str, why: str = "", readings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.why, self.readings = why, readings


@dataclass(frozen=True)
class Layout:
    """The order of a layer's axes, with conversions from it to `(N, C, *L)` and back.

    `channels` is the axis of channels. If places are tokens, they are on the axis `tokens`: the first `leading` and the last
    `trailing` tokens have no place, and the others form the `grid`. With `vector`, values `(N, C)` have one place.
    """

    channels: int = 1
    leading: int = 0
    grid: tuple[int, ...] | None = None
    vector: bool = False
    tokens: int = 1
    trailing: int = 0
    reason: str = field(default="", compare=False)
    """How the layout is known."""

    def places(self, values: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "N C *L"]:
        """Values in the network's own order of axes, with the channels first."""
        if self.vector:
            return values.unsqueeze(-1)
        if self.grid is not None:
            values = values.narrow(self.tokens, self.leading, math.prod(self.grid)).unflatten(self.tokens, self.grid)
        return values.movedim(self.channels, 1)

    def outside(self, values: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "N ..."]:
        """The leading and trailing tokens, which have no place, in the network's own order of axes."""
        before = values.narrow(self.tokens, 0, self.leading)
        if not self.trailing:
            return before
        return torch.cat([before, values.narrow(self.tokens, -self.trailing, self.trailing)], self.tokens)

    def restore(self, places: Shaped[Tensor, "N C *L"], outside: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "N ..."]:
        """Values `places` in the network's own order of axes, with the tokens `outside` before and behind if there are any."""
        if self.vector:
            return places.squeeze(-1)
        values = places.movedim(1, self.channels)
        if self.grid is not None:
            values = values.flatten(self.tokens, self.tokens + len(self.grid) - 1)
        if not self.leading + self.trailing:
            return values
        leading, trailing = outside.to(values.dtype).split([self.leading, self.trailing], self.tokens)
        return torch.cat([leading, values, trailing], self.tokens)

    def letters(self, space: int) -> str:
        """The value of the setting `layout` for this layout, for inputs with `space` axes of space."""
        if self.vector:
            return "BC"
        places = SPACES[space][0]
        if self.grid is not None:
            counts = [self.leading, "*".join(map(str, self.grid)), self.trailing]
            places = f"({'+'.join(str(count) for count in counts if count)})"
        return f"BC{places}" if self.channels == 1 else f"B{places}C"

    def in_words(self, shape: Sequence[int], space: int) -> str:
        """The layout of a shape in words: the value of `layout`, the number of channels, and the places."""
        sizes = self.grid or _without(shape[1:], self.channels - 1 if self.channels > 0 else -1)
        outside = f" and {self.leading + self.trailing} without a place" if self.leading + self.trailing else ""
        return f'layout="{self.letters(space)}" ({shape[self.channels]} channels at {_product(sizes)} places{outside})'


@dataclass(frozen=True)
class _Values:
    """The values of a layer whose layout is wanted, as messages name them."""

    layer: str
    at: str
    shape: tuple[int, ...]
    space: tuple[int, ...]
    """The lengths of the inputs' axes of space."""

    def __str__(self) -> str:
        axes = f"{len(self.space)} axes of space" if len(self.space) > 1 else "one axis of space"
        return f"{_shape_in_words(self.layer, self.at, self.shape)} for inputs with {axes} ({_product(self.space)})"


def _shape_in_words(layer: str, at: str, shape: Sequence[int]) -> str:
    return f"the layer {layer!r} {SIDES[at]} shape {tuple(shape)}"


def layout(
    shape: Sequence[int],
    space: Sequence[int],
    layer: str,
    axes: Axes | None = None,
    letters: str = "",
    at: str = "output",
) -> Layout:
    """The layout of a layer's values of this shape: `(N, C, *L)`, `(N, *L, C)`, `(N, tokens, C)` or `(N, C, tokens)`.

    `space` are the lengths of the inputs' axes of space. `axes` are those of a watched pass (see `axes.axes_of`), `letters`
    those that the user names, as "BHWC", which take precedence. What neither says is inferred from sizes if only one layout
    fits them: maps shrink by one stride along all axes, and tokens form a grid of whole patches. `at` is the side of the
    layer that has the values, for messages. Raises `LayoutError` if no layout fits, or more than one.
    """
    values = _Values(layer, at, tuple(shape), tuple(space))
    if letters:
        return _by_letters(letters, values, axes)
    axes = axes or (Axis("open"),) * len(shape)
    if not layer:
        return Layout(reason="the inputs")
    check_axes(axes, layer, shape, at)
    fitting = [reading for reading in _readings(shape, space, axes) if _fits(reading, shape, axes)]
    computed = [reading for reading in fitting if _is_computed(reading, axes)]
    if len(computed) == 1:
        return replace(computed[0], reason=AS_COMPUTED)
    sized = [reading for reading in fitting if _fits_by_size(reading, shape, space)]
    attention = _attention_in_words(shape, space, axes)
    if len(sized) == 1 and not attention:
        return replace(sized[0], reason=BY_SIZES)
    raise _layout_error(values, axes, sized or fitting, attention)


def channel_layout(
    shape: Sequence[int],
    space: Sequence[int],
    layer: str = "",
    axes: Axes | None = None,
    letters: str = "",
    at: str = "output",
) -> Layout:
    """The layout if only channels matter. Tokens need not form a grid then, and values may be vectors `(N, C)`.

    The arguments and errors are those of `layout`.
    """
    if len(shape) == 2:
        return Layout(vector=True)
    values = _Values(layer, at, tuple(shape), tuple(space))
    if letters:
        return _channels_by_letters(letters, values)
    if not layer:
        return Layout(reason="the inputs")
    axes = axes or (Axis("open"),) * len(shape)
    check_axes(axes, layer, shape, at)
    kinds = [axis.kind for axis in axes]
    for kind in ("channels", "open"):  # if no axis is known to be channels, the only axis that may be
        candidates = [index for index in range(1, len(shape)) if kinds[index] == kind]
        if len(candidates) == 1 and (kind == "channels" or "places" in kinds):
            index = candidates[0]
            if index in (1, len(shape) - 1):
                return Layout(channels=1 if index == 1 else -1, reason=AS_COMPUTED)
        if candidates:
            break
    try:
        places = layout(shape, space, layer, axes, at=at)
    except LayoutError as error:
        if len(shape) != 3 or error.readings or "open" not in kinds:
            raise
        place = "L" if len(space) == 1 else "N"
        raise LayoutError(
            f"{values}, whose channels can be its axis 1, {shape[1]}, or its last, {shape[-1]}; say "
            f'which, with layout="BC{place}" or layout="B{place}C"',
            "several readings fit",
            (f"BC{place}", f"B{place}C"),
        ) from None
    return Layout(channels=places.channels, reason=places.reason)


def laid_out(
    values: Shaped[Tensor, "N ..."],
    space: Sequence[int],
    layer: str,
    axes: Axes | None = None,
    letters: str = "",
    at: str = "output",
) -> Shaped[Tensor, "N C *L"]:
    """A layer's values for inputs of `space`, with the channels first. The arguments and errors are those of `layout`."""
    return layout(values.shape, space, layer, axes, letters, at).places(values)


def check_layout(letters: Any) -> None:
    """Raise `ValueError` unless it can be the value of `layout`."""
    if not isinstance(letters, str):
        raise ValueError(
            f'layout names the axes of the layer\'s values, e.g. layout="BHWC", or is "" to determine them; got {letters!r}'
        )
    if not letters:
        return
    parts = _parts(letters)
    places = [part for part in parts[1:] if part != "C"]
    well_formed = parts[:1] == ["B"] and parts.count("C") == 1 and "".join(parts) == letters
    spaces = {names for alternatives in SPACES.values() for names in alternatives}
    if not well_formed or not ("".join(places) in spaces | {"N"} or (len(places) == 1 and places[0].startswith("("))):
        hint = (
            f' Did you mean layout="B{letters[1:]}"?'
            if letters[:1] == "N" and "B" not in letters and len(letters) > 2
            else ""
        )
        raise ValueError(
            f"layout={letters!r} does not name the axes of a layer's values; expected B for the batch first, C for the "
            "channels, and for the places L, HW, THW or DHW, or N for tokens, or their number as (1+14*14) if the grid is "
            f'not clear, e.g. layout="BHWC", "BNC" or "B(1+14*14)C".{hint}'
        )


def _parts(letters: str) -> list[str]:
    return re.findall(r"[A-Z]|\(\d+(?:[*+]\d+)*\)", letters)


def _by_letters(letters: str, values: _Values, axes: Axes | None) -> Layout:
    """The layout that the user names."""
    check_layout(letters)
    shape, space = values.shape, values.space
    parts = _parts(letters)
    reason = "as layout says"
    misfit = _misfit(letters, values)
    if len(parts) != len(shape):
        raise misfit
    channels = 1 if parts[1] == "C" else -1
    if parts[channels] != "C":
        raise misfit
    place = next(part for part in parts[1:] if part != "C")
    if place != "N" and not place.startswith("("):
        if "".join(part for part in parts[1:] if part != "C") not in SPACES.get(len(space), ()):
            raise misfit
        return Layout(channels=channels, reason=reason)
    tokens = 2 if channels == 1 else 1
    if place == "N":
        axis = axes[tokens] if axes is not None else Axis("open")
        grids = list(_token_grids(shape[tokens], space, axis if axis.kind == "places" else Axis("open")))
        readings = [
            Layout(channels, leading, grid, tokens=tokens, trailing=trailing) for leading, grid, trailing in grids
        ]
        if len(readings) == 1:
            return replace(readings[0], reason=reason)
        raise _layout_error(values, (Axis("open"),) * len(shape), readings)
    terms = [tuple(map(int, term.split("*"))) for term in place[1:-1].split("+")]
    like_space = [index for index, term in enumerate(terms) if len(term) == len(space)]
    grid = like_space[0] if len(like_space) == 1 else max(range(len(terms)), key=lambda index: math.prod(terms[index]))
    leading, trailing = sum(map(math.prod, terms[:grid])), sum(map(math.prod, terms[grid + 1 :]))
    if len(terms[grid]) != len(space) or leading + trailing + math.prod(terms[grid]) != shape[tokens]:
        raise misfit
    return Layout(channels, leading, terms[grid], tokens=tokens, trailing=trailing, reason=reason)


def _channels_by_letters(letters: str, values: _Values) -> Layout:
    """The layout with the channels where the user says; tokens need not form a grid."""
    check_layout(letters)
    parts = _parts(letters)
    if len(parts) != len(values.shape) or "C" not in (parts[1], parts[-1]):
        raise _misfit(letters, values)
    return Layout(channels=1 if parts[1] == "C" else -1, reason="as layout says")


def _misfit(letters: str, values: _Values) -> LayoutError:
    return LayoutError(
        f"layout={letters!r} does not fit: {values}; give one letter for each axis, "
        f"e.g. layout={_example(values)!r}, or leave it out"
    )


def _example(values: _Values) -> str:
    space = len(values.space)
    return f"B{SPACES[space][0]}C" if len(values.shape) == 2 + space else "BNC"


# The layouts that a shape may have, and tests of whether one fits.


def _readings(shape: Sequence[int], space: Sequence[int], axes: Axes) -> Iterator[Layout]:
    if len(shape) == 2 + len(space):
        yield Layout(channels=1)
        yield Layout(channels=-1)
    if len(shape) == 3:
        for tokens, channels in ((1, -1), (2, 1)):
            for leading, grid, trailing in _token_grids(shape[tokens], space, axes[tokens]):
                if len(space) > 1 or leading + trailing:
                    yield Layout(channels, leading, grid, tokens=tokens, trailing=trailing)


def _token_grids(count: int, space: Sequence[int], axis: Axis) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """The possible splits of `count` tokens into leading ones, a grid, and trailing ones.

    If the axis is not known, the grid has the picture's proportions and divides it into whole patches, so that for a square
    picture the number of its tokens is a square. Fewer tokens than these lead, at most `MOST_LEADING`, and none trail.
    """
    if axis.kind == "places":
        grids = [piece.grid for piece in axis.pieces if piece.grid]
        if len(grids) == 1 and [number for number, _ in grids[0]] == list(range(len(space))):
            index = next(index for index, piece in enumerate(axis.pieces) if piece.grid)
            leading = sum(piece.length for piece in axis.pieces[:index])
            trailing = sum(piece.length for piece in axis.pieces[index + 1 :])
            yield leading, tuple(size for _, size in grids[0]), trailing
    elif axis.kind == "open" and len(space) == 2:
        sides = [side // math.gcd(*space) for side in space]
        for leading in range(min(MOST_LEADING + 1, count)):
            times = math.isqrt((count - leading) // math.prod(sides))
            places = times**2 * math.prod(sides)
            if places > max(1, leading) and places == count - leading and math.gcd(*space) % times == 0:
                yield leading, tuple(times * side for side in sides), 0


def _roles(reading: Layout, rank: int) -> list[Any]:
    """The role of each axis after the first: "channels", "tokens", or the number of the axis of space that it follows."""
    if reading.grid is not None:
        return ["channels", "tokens"] if reading.channels == 1 else ["tokens", "channels"]
    numbers = list(range(rank - 2))
    return ["channels", *numbers] if reading.channels == 1 else [*numbers, "channels"]


def _fits(reading: Layout, shape: Sequence[int], axes: Axes) -> bool:
    """Whether the layout agrees with all that is known of the axes."""
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


def _is_computed(reading: Layout, axes: Axes) -> bool:
    """Whether a watched pass shows that the network computes the layout: all its axes of places, if longer than 1."""
    roles = _roles(reading, len(axes))
    places = [axis.kind for axis, role in zip(axes[1:], roles, strict=True) if role != "channels"]
    channels = [axis.kind for axis, role in zip(axes[1:], roles, strict=True) if role == "channels"]
    if "places" in places:
        return "open" not in places
    return set(places) == {"one"} and channels == ["channels"]


def _fits_by_size(reading: Layout, shape: Sequence[int], space: Sequence[int]) -> bool:
    """Whether its places can be those of the inputs' `space` divided by one stride, perhaps without a border."""
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


def _attention_in_words(shape: Sequence[int], space: Sequence[int], axes: Axes) -> str:
    """Words for attention weights `(N, heads, tokens, tokens)` if the values may be such, which no layout reads; else empty."""
    if len(shape) != 4 or len(space) != 2 or shape[2] != shape[3] or {axis.kind for axis in axes[2:]} != {"open"}:
        return ""
    if any(leading <= 1 for leading, _, _ in _token_grids(shape[2], space, axes[2])):
        return f"the attention of {shape[1]} heads among {shape[2]} tokens, which no layout reads"
    return ""


def check_axes(axes: Axes | None, layer: str, shape: Sequence[int] | None = None, at: str = "output") -> None:
    """Raise `LayoutError` if the first axis is known not to be the batch, or if two axes count the same places."""
    if not axes:
        return
    first = axes[0]
    values = _shape_in_words(layer, at, [axis.size for axis in axes] if shape is None else shape)
    if first.kind not in ("batch", "open", "one"):
        words = first.words or {"window": "the places of a window"}.get(first.kind, first.kind)
        batch_axes = [index for index, axis in enumerate(axes) if axis.kind == "batch"]
        batch = f"; the batch is its axis {batch_axes[0]}" if batch_axes else ""
        raise LayoutError(
            f"{values}, whose first axis counts {words}, not the batch alone{batch}; name a layer around it whose {at} is "
            "(N, C, *L)",
            f"its first axis counts {words}",
        )
    numbers = [number for axis in axes for number in {number for piece in axis.pieces for number, _ in piece.grid}]
    if len(numbers) != len(set(numbers)):
        raise LayoutError(
            f"{values}, of which two axes count the same places, as attention weights do, which are no map; name the "
            'attention layer, or for its heads the projection after them with at="input" and groups',
            "two axes count the same places",
        )


def _layout_error(values: _Values, axes: Axes, readings: Sequence[Layout], attention: str = "") -> LayoutError:
    """The error that several layouts fit (`readings`, or `attention` besides them), or none."""
    shape, space = values.shape, values.space
    letters = tuple(reading.letters(len(space)) for reading in readings)
    if readings:
        alternatives = [reading.in_words(shape, len(space)) for reading in readings]
        either = " or ".join([*alternatives, attention] if attention else alternatives)
        return LayoutError(
            f'{values}, which can be read as {either}; say which, e.g. layer={values.layer!r}, layout="{letters[-1]}"',
            "several readings fit",
            letters,
        )
    kinds = ["batch", *(_in_words(axis, size) for axis, size in zip(axes[1:], shape[1:], strict=True))]
    if any(axis.kind != "open" for axis in axes):
        reason = f", whose axes are {' · '.join(kinds)}"
    elif len(shape) == 3 and len(space) == 2:
        reason = (
            f": {shape[1]} tokens, which are no grid of whole patches of the picture, also without up to {MOST_LEADING} "
            "leading ones"
        )
    else:
        reason = ""
    is_open = any(axis.kind == "open" for axis in axes)
    remedy = f', or say how to read it, e.g. layout="{_example(values)}"' if is_open else ""
    return LayoutError(
        f"{values}{reason}: not (N, C, *L) with {len(space)} axes of places; name a layer whose {values.at} has places"
        f"{remedy}",
        " · ".join(kinds[1:]),
    )


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


def _without(sizes: Sequence[int], index: int) -> tuple[int, ...]:
    remaining = list(sizes)
    del remaining[index]
    return tuple(remaining)


def _product(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))
